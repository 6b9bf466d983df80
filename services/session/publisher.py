"""What goes to the bus after a commit: jobs, outcomes, and facts for the archive.

Nothing here has to succeed: what is lost with this process is published again from the clock of
unfinished work, or from the shard's stream of facts.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionChanged, TurnFinished
from maieutic.session.v1.record_pb2 import TurnRecord
from services.runtime import telemetry
from services.runtime.bus import Bus, BusError, OutgoingMessage
from services.runtime.errors import ServiceError
from services.runtime.topology import SUSPECT
from services.session.beginning import confirm_job
from services.session.facts import FactPumps
from services.session.ids import shard_of
from services.session.model import QUEUED, Draft, RunJob, Timing
from services.session.ports import Reads, SessionStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Confirm:
    """The broker has a job, as it was published under a fence."""

    fence: int
    trace: Mapping[str, str]


class Publisher:
    """Publishes in the background and knows how old the oldest unconfirmed job is."""

    def __init__(self, bus: Bus, store: SessionStore, timing: Timing) -> None:
        self._bus = bus
        self._store = store
        self._timing = timing
        self._tasks: set[asyncio.Task[Any]] = set()
        self._facts = FactPumps(
            store, publish=self._publish, start=self._start, gather_ms=timing.gather
        )
        self._unconfirmed: dict[str, float] = {}
        self._to_note: dict[str, _Confirm] = {}
        self._failing_since: float | None = None

    async def __aenter__(self) -> Self:
        # Tasks started inside a call must not inherit its deadline and its caller.
        self._context = contextvars.copy_context()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._facts.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def oldest_unconfirmed(self) -> float:
        """Return for how many seconds the oldest job has waited for its confirm."""
        waiting = [*self._unconfirmed.values()]
        if self._failing_since is not None:
            waiting.append(self._failing_since)
        return time.monotonic() - min(waiting) if waiting else 0.0

    def has_confirm_of(self, turn_id: str) -> bool:
        """Whether the broker has confirmed the turn's job just now; its record may not say so."""
        return turn_id in self._to_note

    def after(self, draft: Draft, turn_id: str = "") -> asyncio.Task[bool] | None:
        """Publish what a committed draft calls for.

        Returns the task that publishes the turn's job, or else, if a turn's fact is among them, the
        one that publishes the draft's facts: it tells whether the broker has confirmed them.
        """
        jobs: dict[str, asyncio.Task[bool]] = {}
        for effect in draft.effects:
            trace = telemetry.here_or(effect.job.trace_context)
            if isinstance(effect, RunJob):
                turn = draft.turns.get(effect.job.turn_id)
                confirm = _Confirm(fence=turn.fence if turn else 0, trace=trace)
                jobs[effect.job.turn_id] = self._start(self._job(effect, confirm))
            else:
                self._start(self._finished(effect, trace))
        return jobs.get(turn_id, self._tell(draft))

    def pump_soon(self, shard: int) -> asyncio.Task[bool]:
        """Publish a shard's facts in the background: a broker that is away holds nobody up."""
        return self._facts.soon(shard)

    def _tell(self, draft: Draft) -> asyncio.Task[bool] | None:
        """Publish a draft's facts; the next states of a session that changes often can wait."""
        shard = shard_of(draft.session_id)
        if not all(isinstance(fact, SessionChanged) for fact in draft.out):
            return self._facts.soon(shard)
        if draft.out:
            self._facts.gathered(shard)
        return None

    async def probe(self) -> None:
        """See whether a broker that failed is back: nothing else may be left to try it with."""
        if self._failing_since is None:
            return
        try:
            await self._bus.check()
        except BusError:
            return
        self._failing_since = None

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _job(self, effect: RunJob, confirm: _Confirm) -> bool:
        job = effect.job
        key = SUSPECT if effect.suspect else job.lane
        self._unconfirmed.setdefault(job.turn_id, time.monotonic())
        try:
            with telemetry.continuing(confirm.trace):
                body = job.SerializeToString()
                confirmed = await self._publish("turns", key, body, job.turn_id)
        finally:
            self._unconfirmed.pop(job.turn_id, None)
        if confirmed:
            self._note_soon(job.turn_id, confirm)
        return confirmed

    def _note_soon(self, turn_id: str, confirm: _Confirm) -> None:
        self._to_note[turn_id] = confirm
        if len(self._to_note) == 1:
            self._start(self._note_confirms())

    async def _note_confirms(self) -> None:
        """Note which jobs the broker has, where no claim has shown it meanwhile."""
        # Most are claimed by then, which shows that the broker had them.
        await asyncio.sleep(self._timing.publish_grace / 4000)
        confirms = dict(self._to_note)
        try:
            for turn in await self._store.turns(list(confirms)):
                if turn is not None and _is_news(turn, confirms[turn.job.turn_id]):
                    await self._note(turn.job, confirms[turn.job.turn_id])
        except ServiceError as error:
            # The broker has them; only the note of that is missing, and they are published again.
            _log.warning("the confirms of jobs were not noted: %s", error.reason)
        finally:
            for turn_id in confirms:
                del self._to_note[turn_id]
        if self._to_note:
            self._start(self._note_confirms())

    async def _note(self, job: RunTurn, confirm: _Confirm) -> None:
        def decide(draft: Draft) -> None:
            turn = draft.turns.get(job.turn_id)
            if turn is not None and _is_news(turn, confirm):
                confirm_job(draft, job.turn_id, self._timing)

        with telemetry.continuing(confirm.trace):
            await self._store.transact(job.message.session_id, decide, Reads(turns=[job.turn_id]))

    async def _finished(self, finished: TurnFinished, trace: Mapping[str, str]) -> None:
        message_id = f"{finished.job.turn_id}:{finished.outcome.fence}"
        body = finished.SerializeToString()
        with telemetry.continuing(trace):
            await self._publish("results", "turn.finished", body, message_id)

    async def _publish(self, exchange: str, key: str, body: bytes, message_id: str) -> bool:
        message = OutgoingMessage(
            exchange=exchange, routing_key=key, body=body, message_id=message_id
        )
        try:
            await self._bus.publish(message)
        except BusError as error:
            self._failing_since = self._failing_since or time.monotonic()
            _log.warning("not published to %s: %s", exchange, error)
            return False
        self._failing_since = None
        return True


def _is_news(turn: TurnRecord, confirm: _Confirm) -> bool:
    """Whether the turn still waits for that job: one that was claimed since waits for another."""
    return turn.phase == QUEUED and not turn.job_confirmed and turn.fence == confirm.fence
