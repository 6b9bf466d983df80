"""Turns in the hands of the load generator: it asks as a gateway and answers as a worker."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from uuid import uuid4

from bench.session.target import Caller, Target, calling
from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1 import session_service_pb2 as sessions, turn_service_pb2 as turns
from services.runtime.bus import Bus, Deliveries, OutgoingMessage
from services.runtime.rabbitmq import RabbitMQBus
from services.runtime.topology import maieutic_topology

JOBS = "turns.interactive.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A claimed turn."""

    turn_id: str
    session_id: str
    claim_id: str
    fence: int


class Conversing:
    """Begins turns, claims them by their jobs, and completes them."""

    def __init__(self, caller: Caller, bus: Bus, jobs: Deliveries) -> None:
        self.caller = caller
        self._bus = bus
        self._jobs = jobs

    @classmethod
    @asynccontextmanager
    async def on(cls, target: Target) -> AsyncIterator[Self]:
        """Be the one gateway and the one worker of the service during the block."""
        async with (
            calling(target) as caller,
            RabbitMQBus.connect(target.bus_url, maieutic_topology()) as bus,
            bus.consume(JOBS, prefetch=500) as jobs,
        ):
            yield cls(caller, bus, jobs)

    async def new_session(self) -> str:
        """Create a session and return its id."""
        request = sessions.CreateSessionRequest(request_id=uuid4().hex)
        created = await self.caller.sessions.CreateSession(request, metadata=self.caller.as_gateway)
        return created.session.session_id

    async def held_turns(self, session_ids: Sequence[str], question: str) -> list[Held]:
        """Ask in each session and claim the turns."""
        await asyncio.gather(*(self._begin(session_id, question) for session_id in session_ids))
        return [await self._next_claim() for _ in session_ids]

    async def _begin(self, session_id: str, question: str) -> None:
        request = turns.BeginTurnRequest(
            session_id=session_id, request_id=uuid4().hex, text=question
        )
        await self.caller.turns.BeginTurn(request, metadata=self.caller.as_gateway)

    async def _next_claim(self) -> Held:
        while True:
            delivery = await anext(self._jobs)
            job, claim_id = RunTurn.FromString(delivery.body), uuid4().hex
            request = work.ClaimTurnRequest(worker_id="bench", claim_id=claim_id, job=job)
            response = await self.caller.work.ClaimTurn(request, metadata=self.caller.as_worker)
            await delivery.ack()
            if response.HasField("claim"):  # else the job of a turn that is held came twice
                return Held(
                    turn_id=job.turn_id,
                    session_id=job.message.session_id,
                    claim_id=claim_id,
                    fence=response.claim.fence,
                )

    async def complete(self, held: Held, *, last_seq: int, text: str) -> None:
        """Commit the answer and tell the archive."""
        request = work.CompleteTurnRequest(
            turn_id=held.turn_id,
            fence=held.fence,
            claim_id=held.claim_id,
            last_seq=last_seq,
            text=text,
        )
        response = await self.caller.work.CompleteTurn(request, metadata=self.caller.as_worker)
        finished = response.finished
        await self._bus.publish(
            OutgoingMessage(
                exchange="results",
                routing_key="turn.finished",
                body=finished.SerializeToString(),
                message_id=f"{held.turn_id}:{finished.outcome.fence}",
            )
        )

    async def archived(self, held: Held) -> None:
        """Wait until the archive has confirmed the turn's outcome."""
        request = turns.GetTurnRequest(turn_id=held.turn_id)
        while True:
            found = await self.caller.turns.GetTurn(request, metadata=self.caller.as_gateway)
            if found.turn.HasField("archive_time"):
                return
            await asyncio.sleep(0.02)
