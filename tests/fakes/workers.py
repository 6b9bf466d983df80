"""Workers on an in-process bus, beside a fake session service and a fake library."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished, TurnUsed
from maieutic.session.v1.turn_work_service_pb2 import FailTurnRequest
from maieutic.v1.document_service_pb2 import Document
from maieutic.v1.message_pb2 import AUTHOR_USER
from maieutic.v1.session_service_pb2 import SESSION_MODE_DIRECT
from services.agents.adapters.scripted import ScriptedModel
from services.agents.agents.loop import LoopOptions
from services.agents.context_limit import ContextOptions
from services.agents.main import RunningAgents, agents_service
from services.agents.ports import Model
from services.agents.recorder import RecorderOptions
from services.agents.settings import AgentsSettings, ModelSettings, PriceOptions
from services.agents.tuned_model import Tuning
from services.runtime.bus import OutgoingMessage
from services.runtime.identity import Signer, Verifier
from services.runtime.memory import MemoryBus
from services.runtime.server import RunningServer, ServerOptions, serving
from services.runtime.topology import maieutic_topology
from tests.fakes.documents import Library, register_documents
from tests.fakes.turn_work import LiveStore, register_turn_work
from tests.waiting import wait_until

TENANT, USER = "acme", "ada"
BRISK = RecorderOptions(heartbeat_interval=0.05, reply_timeout=2.0, reconnect_pause=0.05)
"""For tests that wait for a heartbeat or a reconnection."""


@dataclass(kw_only=True)
class Office:
    """Everything around the workers. `stop` drains them before the end of the block."""

    bus: MemoryBus
    store: LiveStore
    library: Library
    running: RunningAgents
    retrieval: RunningServer
    stack: AsyncExitStack
    used: list[TurnUsed] = field(default_factory=list)
    """What runs have consumed besides the outcomes, as far as it was taken from the queue."""
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def job(self, text: str, **fields: Any) -> RunTurn:
        number = next(self.numbers)
        turn_id, session_id = f"turn-{number:043d}", f"session-{number:040d}"
        job = RunTurn(
            tenant=TENANT, user_id=USER, turn_id=turn_id, lane="interactive", max_attempts=3
        )
        job.session.session_id, job.session.mode = session_id, SESSION_MODE_DIRECT
        job.message.message_id, job.message.session_id = f"{turn_id}.u", session_id
        job.message.turn_id, job.message.text, job.message.author = turn_id, text, AUTHOR_USER
        job.time_budget.FromSeconds(600)
        job.MergeFrom(RunTurn(**fields))
        return job

    async def publish(self, job: RunTurn, lane: str = "interactive") -> None:
        await self.publish_body(job.SerializeToString(), job.turn_id, lane)

    async def publish_body(self, body: bytes, message_id: str, lane: str = "interactive") -> None:
        await self.bus.publish(
            OutgoingMessage(exchange="turns", routing_key=lane, body=body, message_id=message_id)
        )

    async def ask(self, text: str, **fields: Any) -> str:
        """Publish a job; returns its turn id."""
        job = self.job(text, **fields)
        await self.publish(job)
        return job.turn_id

    def add_document(self, name: str, text: str) -> str:
        """Give the user a document; returns its id."""
        document_id = f"document-{len(self.library.texts):039d}"
        document = Document(document_id=document_id, name=name, indexed_version=1)
        self.library.texts[(TENANT, USER), document.document_id] = (document, text)
        return document.document_id

    async def failure(self, turn_id: str) -> FailTurnRequest:
        """Wait for the first failure of the turn, and until its run is over."""
        await wait_until(lambda: bool((turn := self.store.turns.get(turn_id)) and turn.failures))
        await self.idle()
        return self.store.turns[turn_id].failures[0]

    async def finished(self, *, within: float = 10.0) -> TurnFinished:
        """Take the next outcome from the archive's queue; what comes before is in `used`."""
        async with asyncio.timeout(within), self.bus.consume("persist.v1", prefetch=1) as results:
            async for delivery in results:
                await delivery.ack()
                if delivery.routing_key == "turn.finished":
                    return TurnFinished.FromString(delivery.body)
                self.used.append(TurnUsed.FromString(delivery.body))
        raise AssertionError("the archive's queue is at its end")

    async def idle(self) -> None:
        """Wait until no turn runs and every delivery is answered."""
        queues = [
            queue.name for queue in maieutic_topology().queues if queue.name.startswith("turns.")
        ]
        await wait_until(lambda: not (self.running.worker.busy or any(map(self.bus.held, queues))))

    async def streaming(self, turn_id: str) -> None:
        """Wait until the turn has shown some text."""
        await wait_until(lambda: bool((t := self.store.turns.get(turn_id)) and t.text))

    async def stop(self) -> None:
        await self.stack.aclose()

    @property
    def waiting_jobs(self) -> int:
        return self.bus.depth("turns.interactive.v1")

    @property
    def outcomes(self) -> int:
        return self.bus.depth("persist.v1")


def public_pem(key: Ed25519PrivateKey) -> str:
    """Return what verifies the tokens of workers that sign with the key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


@asynccontextmanager
async def office(
    model: Model | None = None,
    *,
    store: LiveStore | None = None,
    bus: MemoryBus | None = None,
    recorder: RecorderOptions = BRISK,
    prices: PriceOptions = PriceOptions(),  # noqa: B008 - frozen
    tuning: Tuning = Tuning(),  # noqa: B008 - frozen
    context: ContextOptions = ContextOptions(),  # noqa: B008 - frozen
    loop: LoopOptions = LoopOptions(),  # noqa: B008 - frozen
    key: Ed25519PrivateKey | None = None,
    **settings: Any,
) -> AsyncIterator[Office]:
    """Run workers during the block; further arguments are `AgentsSettings`."""
    key = key or Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    verifier, store = Verifier({"agents": public_pem(key)}), store or LiveStore()
    library = Library()
    loopback = ServerOptions(grace=0.1, stream_grace=0.05)
    async with (
        bus or MemoryBus(maieutic_topology()) as broker,
        serving(loopback, register_turn_work(store), verifier=verifier) as session,
        serving(loopback, register_documents(library), verifier=verifier) as retrieval,
        AsyncExitStack() as stack,
    ):
        chosen = AgentsSettings(
            server=loopback,
            session_address=session.address,
            retrieval_address=retrieval.address,
            recorder=recorder,
            model=ModelSettings(prices=prices, agents=tuning, context=context, loop=loop),
            **settings,
        )
        signer = Signer("agents", private)
        service = agents_service(chosen, bus=broker, model=model or ScriptedModel(), signer=signer)
        running = await stack.enter_async_context(service)
        yield Office(
            bus=broker,
            store=store,
            library=library,
            running=running,
            retrieval=retrieval,
            stack=stack,
        )
        assert store.violations == []
