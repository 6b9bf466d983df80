"""Every phase in which a turn may be stopped, each as a context that brings one turn there."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from maieutic.tools.v1.tool_service_pb2 import CallToolRequest, CallToolResponse
from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import BUSY_POLICY_ENQUEUE, TURN_STATE_QUEUED, BusyPolicy
from maieutic_client import Maieutic, TurnStream
from services.agents.agents import claims, code_plan, verdicts
from tests.emulators.anthropic import Emulator, Seen, anthropic_emulator
from tests.emulators.anthropic_plan import Call, Rule
from tests.fakes.tools import Context, ToolBench, tool_bench
from tests.faults.steps import PATIENCE, until_event
from tests.stack import RealStack
from tests.waiting import wait_until

STOPPED = "Stop me."
"""What the turn asks that is stopped."""
LATER = "What is next?"
"""What a turn asks after it in the same session."""
ENDLESS = " ".join(["word"] * 5000)
LISTED = {"claims": [{"text": STOPPED, "quote": STOPPED}]}
FILES = {"a.md": "# A\n", "b.md": ENDLESS}
PLANNED = {
    "files": [{"path": path, "purpose": "Is a file.", "interface": ""} for path in FILES],
    "assumptions": [],
}


async def _forever(request: CallToolRequest, context: Context) -> CallToolResponse:
    await asyncio.Event().wait()
    raise AssertionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A stack whose worker calls an emulator of Claude, and has a tool that never answers."""

    stack: RealStack
    client: Maieutic
    emulator: Emulator
    tools: ToolBench = field(default_factory=lambda: ToolBench(answer=_forever))

    def plan(self, *rules: Rule) -> None:
        """Have the emulator do this from now on."""
        self.emulator.plan = list(rules)
        self.emulator.forget()
        self.tools.requests.clear()
        self.tools.cancelled.clear()

    def answer(self) -> None:
        """Have everything answer whoever asks from now on."""
        self.emulator.plan = []
        self.stack.thaw("retrieval")

    @property
    def requests(self) -> list[Seen]:
        """The calls of a model that were made for the turn that is stopped."""
        texts = ((one, json.dumps(one.body)) for one in self.emulator.requests)
        return [one for one, text in texts if STOPPED in text and LATER not in text]

    def ask(
        self,
        session: Session,
        text: str = STOPPED,
        policy: BusyPolicy.ValueType = BUSY_POLICY_ENQUEUE,
    ) -> TurnStream:
        return self.client.turns.stream(session, text, busy_policy=policy, timeout=PATIENCE)

    async def calls(self, number: int) -> None:
        """Wait until the stopped turn has called its model so often, or more."""
        await wait_until(lambda: len(self.requests) >= number, PATIENCE)

    async def left(self) -> None:
        """Wait until the turn's worker has let go of whatever it called."""
        await wait_until(lambda: all(one.end for one in self.requests), PATIENCE)
        if self.tools.requests:
            await self.tools.cancelled.wait()

    async def new_session(self, *document_ids: str) -> Session:
        budget = Budget(tokens=10_000_000)
        return await self.client.sessions.create(budget=budget, document_ids=document_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A turn that is in a phase; to be stopped now."""

    session: Session
    stream: TurnStream


@asynccontextmanager
async def place_to_stop_in(stack: RealStack, client: Maieutic) -> AsyncIterator[Place]:
    """Put a worker into *stack* whose turns can be brought into every phase; it stays there."""
    key = load_pem_private_key(stack.signing_keys["agents"].encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    async with anthropic_emulator() as emulator:
        place = Place(stack=stack, client=client, emulator=emulator)
        async with tool_bench(place.tools, key) as tools:
            await stack.replace(
                "agents",
                model_kind="claude",
                model_claude_api_key="key",
                model_claude_base_url=emulator.url,
                analysis_turns="1",
                extensions_servers_addresses=json.dumps({"far": tools.address}),
            )
            yield place


@asynccontextmanager
async def _waiting(place: Place) -> AsyncIterator[Phase]:
    """Behind another turn of its session."""
    place.plan(Rule(breaks="hang", times=1))
    session = await place.new_session()
    async with place.ask(session, "First.") as first, place.ask(session) as stream:
        await until_event(first, "accepted")
        await until_event(stream, "accepted")
        yield Phase(session=session, stream=stream)
        await place.client.turns.cancel(first.turn_id)


@asynccontextmanager
async def _queued(place: Place) -> AsyncIterator[Phase]:
    """Without a worker that has room: the lane's only place is taken."""
    place.plan(Rule(breaks="hang", times=1))
    added = await place.client.documents.add("a.md", STOPPED)
    session = await place.new_session(added.document.document_id)
    async with (
        _analysis(place, session, "First.") as first,
        _analysis(place, session) as stream,
    ):
        await until_event(first, "started")
        await until_event(stream, "accepted")
        yield Phase(session=session, stream=stream)
        await place.client.turns.cancel(first.turn_id)


@asynccontextmanager
async def _unanswered(place: Place) -> AsyncIterator[Phase]:
    """Before the model's response begins."""
    place.plan(Rule(header_delay=PATIENCE, times=1))
    async with _called(place) as phase:
        yield phase


@asynccontextmanager
async def _before_the_first_word(place: Place) -> AsyncIterator[Phase]:
    """After the model's response has begun."""
    place.plan(Rule(breaks="hang", times=1))
    async with _called(place) as phase:
        yield phase


@asynccontextmanager
async def _streaming(place: Place) -> AsyncIterator[Phase]:
    """Between two words."""
    place.plan(Rule(text=ENDLESS, delay=0.02, times=1))
    async with _called(place) as phase:
        await until_event(phase.stream, "delta")
        yield phase


@asynccontextmanager
async def _searching(place: Place) -> AsyncIterator[Phase]:
    """In the search of the documents, which does not answer."""
    place.plan()
    added = await place.client.documents.add("a.md", "A text.")
    session = await place.new_session(added.document.document_id)
    place.stack.freeze("retrieval")
    try:
        async with place.ask(session) as stream:
            await until_event(stream, "notice")
            yield Phase(session=session, stream=stream)
    finally:
        place.stack.thaw("retrieval")


@asynccontextmanager
async def _in_a_remote_tool(place: Place) -> AsyncIterator[Phase]:
    """In a call of another team's tool, which does not answer."""
    place.plan(Rule(calls=[Call(name="far__look", input={"word": "tide"})], times=1))
    async with _called(place) as phase:
        await wait_until(lambda: bool(place.tools.requests), PATIENCE)
        yield phase


@asynccontextmanager
async def _in_an_analysis(place: Place) -> AsyncIterator[Phase]:
    """After its first step, before the first word of the second."""
    listed = Rule(contains=claims.ASK.text, text=json.dumps(LISTED))
    place.plan(listed, Rule(contains=verdicts.ASK.text, breaks="hang"))
    added = await place.client.documents.add("a.md", STOPPED)
    session = await place.new_session(added.document.document_id)
    async with _analysis(place, session) as stream:
        await until_event(stream, "accepted")
        await place.calls(1)
        await wait_until(lambda: len(place.emulator.requests) > 1, PATIENCE)
        yield Phase(session=session, stream=stream)


@asynccontextmanager
async def _in_a_code_turn(place: Place) -> AsyncIterator[Phase]:
    """After its plan and its first file, in the midst of the second."""
    planned = Rule(contains=code_plan.PLAN_THEM, text=json.dumps(PLANNED))
    writing = [Rule(contains=f"file {path}", text=text, delay=0.02) for path, text in FILES.items()]
    place.plan(planned, *writing)
    session = await place.new_session()
    async with place.client.turns.generate_code(session, STOPPED, timeout=PATIENCE) as stream:
        await until_event(stream, "started")
        await place.calls(3)
        async for frame in stream:
            if frame.HasField("delta") and stream.files[max(stream.files)].path == "b.md":
                break
        yield Phase(session=session, stream=stream)


@asynccontextmanager
async def _at_the_gate(place: Place) -> AsyncIterator[Phase]:
    """In the worker's own wait: the model has asked for a second, for another turn."""
    place.plan(Rule(status=429, retry_after=1.5, times=1), Rule(contains=STOPPED, breaks="hang"))
    session = await place.new_session()
    async with place.ask(await place.new_session(), "First.") as first:
        await until_event(first, "started")
        await wait_until(lambda: any(one.end for one in place.emulator.requests), PATIENCE)
        async with place.ask(session) as stream:
            await until_event(stream, "started")
            yield Phase(session=session, stream=stream)
        await place.client.turns.cancel(first.turn_id)


@asynccontextmanager
async def _handed_back(place: Place) -> AsyncIterator[Phase]:
    """Back at the clock, as the model has asked for a longer time."""
    place.plan(Rule(status=429, retry_after=2, times=1), Rule(contains=STOPPED, breaks="hang"))

    async with _called(place) as phase:

        async def queued() -> bool:
            turn = await place.client.turns.get(phase.stream.turn_id)
            return turn.state == TURN_STATE_QUEUED

        await wait_until(queued, PATIENCE)
        yield phase


@asynccontextmanager
async def _called(place: Place) -> AsyncIterator[Phase]:
    session = await place.new_session()
    async with place.ask(session) as stream:
        await until_event(stream, "started")
        await place.calls(1)
        yield Phase(session=session, stream=stream)


def _analysis(place: Place, session: Session, text: str = STOPPED) -> TurnStream:
    return place.client.turns.analyze(session, text=text, timeout=PATIENCE)


Enter: TypeAlias = Callable[[Place], AbstractAsyncContextManager[Phase]]

PHASES: Mapping[str, Enter] = MappingProxyType(
    {
        "waiting": _waiting,
        "queued": _queued,
        "unanswered": _unanswered,
        "first_word": _before_the_first_word,
        "streaming": _streaming,
        "search": _searching,
        "remote_tool": _in_a_remote_tool,
        "gate": _at_the_gate,
        "handed_back": _handed_back,
        "analysis": _in_an_analysis,
        "code": _in_a_code_turn,
    }
)
