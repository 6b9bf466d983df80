"""Frames of many running turns: appended, kept in the logs, watched; in a process of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.load import percentile
from bench.processor import ProcessorTime
from bench.session.conversing import Conversing, Held
from bench.session.target import Caller, Target
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.turn_service_pb2 import TurnDelta, TurnFrame, WatchTurnRequest

TURNS = 200
EVENTS_A_SECOND = 20
"""Of each turn."""
WORKERS = 4
FLUSH_SECONDS = 0.025
"""What a worker gathers before it sends."""
BEAT_SECONDS = 0.8
STAMP = "{:016.6f}"
STAMP_LENGTH = len(STAMP.format(0.0))
"""Of each event's text, which is the time at which it was sent."""
WARM_UP_SECONDS = 1.0


@dataclass(slots=True, kw_only=True)
class _Turn:
    """A turn that a worker of the load generator runs."""

    held: Held
    seq: int = 0

    def say(self, events: int = 1) -> work.TurnEvents:
        """Return the next frames."""
        first, self.seq = self.seq + 1, self.seq + events
        delta = TurnDelta(text=STAMP.format(time.perf_counter()))
        frame = TurnFrame(turn_id=self.held.turn_id, delta=delta)
        return work.TurnEvents(**self._hold, first_seq=first, frames=[frame] * events)

    def beat(self) -> work.TurnHeartbeat:
        """Return the renewal of its lease."""
        return work.TurnHeartbeat(**self._hold)

    @property
    def _hold(self) -> dict[str, Any]:
        held = self.held
        return {"turn_id": held.turn_id, "fence": held.fence, "claim_id": held.claim_id}


@dataclass(slots=True)
class _Seen:
    """What the watchers have received."""

    events: int = 0
    delays: list[float] = field(default_factory=list)
    """Seconds from the sending of each event, or of the last of those that came as one."""

    def take(self, text: str) -> None:
        self.events += len(text) // STAMP_LENGTH
        self.delays.append(time.perf_counter() - float(text[-STAMP_LENGTH:]))


async def measure_events(target: Target, seconds: float) -> Mapping[str, float]:
    """Return the figures of a steady flow and of as much as goes through."""
    async with Conversing.on(target) as conversing:
        sessions = [await conversing.new_session() for _ in range(TURNS)]
        held = await conversing.held_turns(sessions, "Why?")
        turns = [_Turn(held=each) for each in held]
        seen = _Seen()
        watching = [
            asyncio.create_task(_watch(conversing.caller, turn.held.turn_id, seen))
            for turn in turns
        ]
        processor = ProcessorTime(target.processes)
        steady = await _flow(conversing.caller, turns, seen, processor, seconds, paced=True)
        most = await _flow(conversing.caller, turns, seen, processor, seconds, paced=False)
        for turn in turns:
            await conversing.complete(turn.held, last_seq=turn.seq, text="So.")
        await asyncio.gather(*watching)
    return {
        "events_s": most.per_second,
        "events_cpu_us": steady.processor_us,
        "events_steady_s": steady.per_second,
        "events_p50_ms": steady.p50_ms,
        "events_p99_ms": steady.p99_ms,
        "events_most_cpu_us": most.processor_us,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    per_second: float
    """Events that reached the watchers."""
    processor_us: float
    """Of the session service, for each of them."""
    p50_ms: float
    p99_ms: float


async def _flow(
    caller: Caller,
    turns: Sequence[_Turn],
    seen: _Seen,
    processor: ProcessorTime,
    seconds: float,
    *,
    paced: bool,
) -> _Flow:
    """Let workers share the turns for some time after a warm-up."""
    until = time.perf_counter() + WARM_UP_SECONDS + seconds
    working = [
        asyncio.create_task(_work(caller, turns[first::WORKERS], until, paced=paced))
        for first in range(WORKERS)
    ]
    await asyncio.sleep(WARM_UP_SECONDS)
    processor.restart()
    before, began = seen.events, time.perf_counter()
    seen.delays.clear()
    await asyncio.sleep(until - time.perf_counter())
    events, took = seen.events - before, time.perf_counter() - began
    used = processor.used()["session"]
    delays = list(seen.delays)
    await asyncio.gather(*working)
    return _Flow(
        per_second=round(events / took, 1),
        processor_us=round(used * 1_000_000 / events, 1),
        p50_ms=round(percentile(delays, 0.5) * 1000, 1),
        p99_ms=round(percentile(delays, 0.99) * 1000, 1),
    )


async def _work(caller: Caller, turns: Sequence[_Turn], until: float, *, paced: bool) -> None:
    """Be one worker process: a stream, a batch each flush interval, or the next after each answer.

    Paced, each turn says EVENTS_A_SECOND, and the turns take turns.
    """
    answered = asyncio.Event()
    answered.set()

    async def requests() -> AsyncIterator[work.RecordTurnEventsRequest]:
        beat_at, flush_at, batch = 0.0, time.perf_counter(), 0
        while (now := time.perf_counter()) < until:
            batch += 1
            request = work.RecordTurnEventsRequest(batch_id=batch)
            if now > beat_at:
                request.heartbeats.extend(turn.beat() for turn in turns)
                beat_at = now + BEAT_SECONDS
            request.events.extend(turn.say() for turn in _turns_of(batch, turns, paced=paced))
            await answered.wait()  # a turn's next frames never overtake those under way
            answered.clear()
            yield request
            flush_at += FLUSH_SECONDS
            if paced:
                await asyncio.sleep(max(0.0, flush_at - time.perf_counter()))

    async for response in caller.work.RecordTurnEvents(requests(), metadata=caller.as_worker):
        if response.fenced_turn_ids or response.missing_turn_ids:
            message = f"turns were lost: {response}"
            raise RuntimeError(message)
        answered.set()


def _turns_of(batch: int, turns: Sequence[_Turn], *, paced: bool) -> Sequence[_Turn]:
    """Return the turns that speak in a batch."""
    if not paced:
        return turns
    every = round(1 / (EVENTS_A_SECOND * FLUSH_SECONDS))
    return turns[batch % every :: every]


async def _watch(caller: Caller, turn_id: str, seen: _Seen) -> None:
    request = WatchTurnRequest(turn_id=turn_id)
    async for response in caller.turns.WatchTurn(request, metadata=caller.as_gateway):
        if response.frame.HasField("delta"):
            seen.take(response.frame.delta.text)
