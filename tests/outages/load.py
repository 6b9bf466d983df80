"""Turns of many callers at once, who ask again whatever happens, and note what they are told."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from maieutic.v1.turn_service_pb2 import TurnOutcome
from maieutic_client import Maieutic, MaieuticError, NotFound, RetryPolicy, TurnStream
from tests.stack import RealStack
from tests.waiting import wait_until

CLIENTS = 32
TURNS_EACH = 7
LATENCY = 0.3
"""Seconds that the model thinks."""
PATIENCE = 60.0
"""Seconds for what must happen; nothing is asserted about how long it takes."""


@dataclass(slots=True, kw_only=True)
class Asked:
    """One turn: what its caller sent, and what came back."""

    session_id: str
    question: str
    answer: str
    request_id: str = field(default_factory=lambda: uuid4().hex)
    turn_id: str = ""
    durable: bool = False
    """Whether any answer has said so."""
    failures: list[MaieuticError] = field(default_factory=list)
    """What calls for it failed with, in order."""
    refusals: int = 0
    """How many of them came before any answer had named the turn."""
    forgotten: list[MaieuticError] = field(default_factory=list)
    """Answers that there is no such turn, after it had been accepted."""
    begun: float = 0.0
    ended: float = 0.0
    """On the monotonic clock."""
    outcome: TurnOutcome | None = None


class Load:
    """Callers who ask one question after the other, each in a session of their own."""

    def __init__(self, client: Maieutic, sessions: Sequence[str]) -> None:
        self._client = client
        self.sessions = sessions
        self.asked: list[Asked] = []

    @property
    def ended(self) -> int:
        """How many turns have an outcome."""
        return sum(1 for asked in self.asked if asked.outcome is not None)

    @property
    def failures(self) -> list[MaieuticError]:
        """Everything that calls have failed with."""
        return [failure for asked in self.asked for failure in asked.failures]

    @asynccontextmanager
    async def asking(
        self,
        sessions: Sequence[str] = (),
        *,
        turns_each: int = TURNS_EACH,
        latency: float = LATENCY,
    ) -> AsyncIterator[None]:
        """Ask in these or all sessions at once; leaving waits for every question's outcome."""
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as callers:
            for session_id in sessions or self.sessions:
                callers.create_task(self._converse(session_id, turns_each, latency))
            yield

    async def ask(self, sessions: Sequence[str] = (), *, turns_each: int) -> None:
        """Ask in these or all sessions, until every question has its outcome."""
        async with self.asking(sessions, turns_each=turns_each):
            pass

    async def until_ended(self, turns: int) -> None:
        """Wait until so many turns have ended."""
        await wait_until(lambda: self.ended >= turns, PATIENCE)

    async def until_durable(self, sessions: Sequence[str]) -> None:
        """Wait until a turn has been answered as durable in each of these sessions."""

        async def durable() -> bool:
            for asked in self.asked:
                if asked.turn_id and not asked.durable:
                    asked.durable = (await self._client.turns.get(asked.turn_id)).durable
            return {a.session_id for a in self.asked if a.durable} >= set(sessions)

        await wait_until(durable, PATIENCE, every=0.1)

    def recovered(self, since: float) -> float:
        """Return how long after *since* the last of the turns ended that were begun before."""
        ends = [asked.ended for asked in self.asked if asked.begun < since]
        return max(0.0, max(ends) - since)

    async def _converse(self, session_id: str, turns: int, latency: float) -> None:
        # Callers who do not all knock at the same moment.
        await asyncio.sleep(random.uniform(0, latency))
        for _ in range(turns):
            await self._ask(session_id, latency)

    async def _ask(self, session_id: str, latency: float) -> None:
        """Ask a question, again and again under its request id, until its outcome is here."""
        answer = f"answer {len(self.asked)}"
        script = {"text": answer, "first_latency": latency}
        question = json.dumps({"script": script})
        asked = Asked(session_id=session_id, question=question, answer=answer)
        asked.begun = time.monotonic()
        self.asked.append(asked)
        stream = self._stream(asked)
        while asked.outcome is None:
            try:
                await _follow(stream, asked)
            except MaieuticError as error:
                if isinstance(error, NotFound) and asked.turn_id:
                    asked.forgotten.append(error)
                    stream = self._stream(asked)
                else:
                    asked.failures.append(error)
                    asked.refusals += not asked.turn_id
                await asyncio.sleep(error.retry_after or 0.2)
        asked.ended = time.monotonic()

    def _stream(self, asked: Asked) -> TurnStream:
        return self._client.turns.stream(
            asked.session_id, asked.question, request_id=asked.request_id
        )


async def _follow(stream: TurnStream, asked: Asked) -> None:
    async for _ in stream:
        asked.turn_id = stream.turn_id
        if stream.turn is not None and stream.turn.durable:
            asked.durable = True
    asked.outcome = stream.outcome


@asynccontextmanager
async def load_on(stack: RealStack, *, sessions: int = CLIENTS) -> AsyncIterator[Load]:
    """Give callers with new sessions that the archive knows, and who see every failure."""
    # They do not try again by themselves.
    at_once = RetryPolicy(give_up_after=0.0)
    async with stack.client() as patient:
        creating = (patient.sessions.create(title="an outage") for _ in range(sessions))
        found = [session.session_id for session in await asyncio.gather(*creating)]

    async def archived() -> bool:
        query = "SELECT count(*) AS n FROM sessions WHERE session_id = ANY($1)"
        return bool((await stack.rows(query, found))[0]["n"] == sessions)

    await wait_until(archived, PATIENCE, every=0.05)
    address = stack.address("gateway")
    async with Maieutic.connect(address, api_key=stack.api_key, retry=at_once) as client:
        yield Load(client, found)
