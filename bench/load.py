"""Load on a running backend, bounded in count, and what it took."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from maieutic_client import Maieutic, MaieuticError

TEXT = " ".join(f"word{n}" for n in range(20))
WATCH_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One turn, in seconds from the request."""

    completed: bool
    first_frame: float
    """Until the first text."""
    whole: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All turns of one run."""

    samples: Sequence[Sample]
    wall: float
    """Seconds from the first request to the last outcome."""

    @property
    def failures(self) -> int:
        """Turns that did not end with an answer."""
        return sum(not sample.completed for sample in self.samples)

    @property
    def per_second(self) -> float:
        """Turns that ended with an answer, a second."""
        return (len(self.samples) - self.failures) / self.wall

    def whole_ms(self, share: float) -> float:
        """Return the percentile of the turns' whole times."""
        return percentile([sample.whole for sample in self.samples], share) * 1000

    def first_frame_ms(self, share: float) -> float:
        """Return the percentile of the times until the first text."""
        return percentile([sample.first_frame for sample in self.samples], share) * 1000


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    """Return the median, rounded to what a run can tell."""
    return round(statistics.median(values), 2)


def script(*, first_latency: float = 0.0, chunks: int = 20) -> str:
    """Return a question to which the scripted model gives 20 words in so many pieces."""
    return json.dumps({"script": {"text": TEXT, "chunks": chunks, "first_latency": first_latency}})


async def steady(
    client: Maieutic, *, clients: int, turns: int, question: str, spread: float = 0.0
) -> Run:
    """Let each client ask one question after the other in a session of its own.

    They begin evenly over *spread* seconds: callers who know nothing of each other do not ask in
    the same instant.
    """
    sessions = await new_sessions(client, clients)

    async def ask_all(place: int, session_id: str) -> list[Sample]:
        await asyncio.sleep(spread * place / clients)
        return [await _ask(client, session_id, question) for _ in range(turns // clients)]

    started = time.monotonic()
    parts = await asyncio.gather(*(ask_all(*each) for each in enumerate(sessions)))
    return Run(samples=[s for part in parts for s in part], wall=time.monotonic() - started)


async def new_sessions(client: Maieutic, count: int) -> list[str]:
    """Create sessions, a few at a time."""
    sessions: list[Session] = []
    while len(sessions) < count:
        few = (client.sessions.create() for _ in range(min(50, count - len(sessions))))
        sessions += await asyncio.gather(*few)
    return [session.session_id for session in sessions]


async def burst(client: Maieutic, sessions: Sequence[str], *, question: str) -> Run:
    """Ask in all sessions at once."""
    started = time.monotonic()
    samples = await asyncio.gather(*(_ask(client, session, question) for session in sessions))
    return Run(samples=samples, wall=time.monotonic() - started)


async def _ask(client: Maieutic, session_id: str, question: str) -> Sample:
    started, first = time.monotonic(), 0.0
    try:
        async with client.turns.stream(session_id, question, timeout=WATCH_SECONDS) as stream:
            async for frame in stream:
                if not first and frame.HasField("delta"):
                    first = time.monotonic() - started
            outcome = stream.outcome
    except MaieuticError:
        outcome = None
    completed = outcome is not None and outcome.state == TURN_STATE_COMPLETED
    return Sample(completed=completed, first_frame=first, whole=time.monotonic() - started)
