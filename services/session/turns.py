"""Turns as callers use them: begin, get, cancel."""

import asyncio
import logging
from collections.abc import Callable

from maieutic.archive.v1.archive_service_pb2 import GetArchivedTurnResponse
from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1 import turn_service_pb2 as pb
from services.runtime.errors import ServiceError
from services.runtime.first_outcome import NotCarriedOut
from services.session.accepting import begin_aside
from services.session.archive import Archive
from services.session.beginning import begin, unfinished_stop
from services.session.ending import finish_stop
from services.session.errors import (
    Overloaded,
    RequestIdTaken,
    SessionBusy,
    SessionSettling,
    TurnNotBack,
    turn_not_found,
)
from services.session.ids import checked, shard_of
from services.session.jobs import BeginRequest, Jobs, Limits, is_analysed, require_sources
from services.session.limits import Most, check_text
from services.session.live import LiveSessions, owned
from services.session.logs import story_of
from services.session.losses import Losses
from services.session.model import (
    CANCELLING,
    STUB,
    WAITING,
    Caller,
    Draft,
    Timing,
    in_window,
    milliseconds,
    place_in_line,
)
from services.session.operations import once
from services.session.ports import Reads, SessionStore
from services.session.publisher import Publisher
from services.session.restoring import rebuild
from services.session.spending import require_unspent
from services.session.transitions import cancel
from services.session.updating import require_open
from services.session.views import archived_turn, public_turn

_log = logging.getLogger(__name__)

DURABLE_WITHIN_SECONDS = 0.25


class _Ended(Exception):
    """The turn was begun, ended and archived before."""

    def __init__(self, row: GetArchivedTurnResponse) -> None:
        super().__init__()
        self.row = row


class Turns:
    """What callers do with turns. Raises the errors of `errors` and Unavailable."""

    def __init__(
        self,
        *,
        store: SessionStore,
        live: LiveSessions,
        archive: Archive,
        publisher: Publisher,
        losses: Losses,
        jobs: Jobs,
        timing: Timing,
        limits: Limits,
        most: Most,
        memory_full: Callable[[], bool],
    ) -> None:
        self._store = store
        self._live = live
        self._archive = archive
        self._publisher = publisher
        self._losses = losses
        self._jobs = jobs
        self._timing = timing
        self._limits = limits
        self._most = most
        self._memory_full = memory_full

    async def begin(self, caller: Caller, request: BeginRequest) -> pb.Turn:
        """Accept the turn, or find what this request id began; waits a little for durability."""
        checked("session_id", request.session_id)
        return await self.begin_job(caller, self._jobs.of(caller, request))

    async def begin_code(self, caller: Caller, request: pb.GenerateCodeRequest) -> pb.Turn:
        """See `begin`; the turn writes files."""
        checked("session_id", request.session_id)
        return await self.begin_job(caller, self._jobs.code_of(caller, request))

    async def begin_job(self, caller: Caller, job: RunTurn, *, anew: bool = True) -> pb.Turn:
        """See `begin`; raises NotCarriedOut if the turn would begin and may not, *anew*."""
        session_id = job.message.session_id

        def decide(draft: Draft) -> TurnRecord:
            record = owned(draft.session, session_id, caller.tenant, caller.user)
            begins = job.turn_id not in draft.turns  # one that is here is found in any case
            if begins and not anew:
                raise NotCarriedOut
            if begins:
                check_text(job.message.text, self._most)
                require_open(record)
                require_unspent(record)
                require_sources(job, record)
                self._admit()
            turn = begin(draft, job, self._timing, most_waiting=self._limits.most_waiting)
            if begins and is_analysed(job, record):
                begin_aside(draft, self._jobs.analysis_of(job), self._timing)
            return turn

        async def prepare(draft: Draft) -> None:
            await self._look_in_archive(draft, job)

        try:
            turn, draft = await self._live.transact(
                session_id, decide, Reads(turns=[job.turn_id], running=True), prepare
            )
        except _Ended as ended:
            return _the_same(ended.row, job)
        except SessionBusy as busy:
            raise await self._settling(busy) from busy
        return await self._accepted(caller, turn, draft)

    async def _accepted(self, caller: Caller, turn: TurnRecord, draft: Draft) -> pb.Turn:
        """Publish what was begun, and say how it stands."""
        turn_id = turn.job.turn_id
        published = self._publisher.after(draft, turn_id)
        if turn.phase == WAITING and published is None:
            # An earlier try may have died before it could tell the archive.
            published = self._publisher.pump_soon(shard_of(draft.session_id))
        if stopped := unfinished_stop(draft, turn):
            published = await self._start_instead(draft, stopped, turn_id) or published
        if stopped or turn.phase == STUB:
            shown = await self.get(caller, turn_id)
        else:
            shown = _shown(turn, draft.session)
        if published is not None and await _within(published, DURABLE_WITHIN_SECONDS):
            shown.durable = True
        return shown

    async def _start_instead(
        self, draft: Draft, stopped: str, turn_id: str
    ) -> asyncio.Task[bool] | None:
        """End the turn that was stopped, so that the one that takes over starts."""
        try:
            return await self._finish_stop(draft.session_id, stopped, turn_id)
        except ServiceError as error:
            # The turn is accepted, and the clock finishes the stop.
            _log.warning("turn %s is stopped a little later: %s", stopped, error.reason)
            return None

    async def _settling(self, busy: SessionBusy) -> ServiceError:
        """Return what to say of a turn that may be there only because its end was forgotten.

        Its caller may have seen the outcome; the archive confirms it soon, or the turn runs again.
        """
        ahead = await self._store.turn(busy.turn_id)
        runs = ahead is not None and ahead.phase != STUB and not ahead.provisional
        return busy if runs or not await self._losses.lately() else SessionSettling(busy.turn_id)

    def _admit(self) -> None:
        oldest = self._publisher.oldest_unconfirmed()
        if oldest > self._limits.oldest_unconfirmed:
            raise Overloaded(f"the message broker has left work unconfirmed for {oldest:.0f} s")
        if self._memory_full():
            raise Overloaded("the session store's memory is over 80 % full")

    async def _look_in_archive(self, draft: Draft, job: RunTurn) -> None:
        """Find a turn that only the archive can still know.

        A turn leaves a stub here for a day. So in a session that is younger, and was never lost,
        every turn that was ever begun is still here, and begin needs no archive, unless the
        window has the question of a turn whose record has gone alone.
        """
        owned(draft.session, draft.session_id, job.tenant, job.user_id)
        if draft.session is None or job.turn_id in draft.turns:
            return
        age = draft.now_ms - milliseconds(draft.session.session.create_time)
        asked = in_window(draft.session, job.message.message_id)
        if not (asked or draft.session.restored) and age < self._timing.stub:
            return
        row = await self._archive.turn(job.turn_id, job.message.session_id)
        if row.HasField("finished"):
            raise _Ended(row)
        if row.HasField("job"):
            over = await self._live.predecessor_over(draft, row.job)
            rebuild(draft, row.job, row, self._timing, predecessor_over=over)

    async def get(self, caller: Caller, turn_id: str) -> pb.Turn:
        """Return the caller's turn as it stands, live or archived; may raise TurnNotBack."""
        checked("turn_id", turn_id)
        turn = await self._store.turn(turn_id)
        if turn is not None and turn.phase != STUB:
            _own(turn.job, caller)
            waits = turn.phase == WAITING
            record = await self._store.session(turn.job.message.session_id) if waits else None
            shown = _shown(turn, record)
            shown.durable |= self._publisher.has_confirm_of(turn_id)
            return shown
        row = await self._archive.turn(turn_id, turn.job.message.session_id if turn else "")
        if row.session_deleted:
            raise turn_not_found(turn_id)
        if not row.HasField("job"):
            raise TurnNotBack(turn_id) if await self._losses.lately() else turn_not_found(turn_id)
        _own(row.job, caller)
        session = await self._store.session(row.job.message.session_id)
        if session is not None and session.tombstone:  # the archive may not know of it yet
            raise turn_not_found(turn_id)
        return archived_turn(row)

    async def cancel(self, caller: Caller, request: pb.CancelTurnRequest) -> pb.Turn:
        """Stop the turn, in two steps; if it has ended, its outcome stands."""
        turn_id = checked("turn_id", request.turn_id)
        job = await self._unfinished(turn_id)
        if job is None:
            shown = await self.get(caller, turn_id)
            # It may have come just now, or back, and run on after it was said to be stopped.
            if shown.HasField("outcome") or (job := await self._unfinished(turn_id)) is None:
                return shown
        _own(job, caller)
        session_id = job.message.session_id

        def decide(draft: Draft) -> TurnRecord | None:
            turn = draft.turns.get(turn_id)
            if turn is not None:  # one that comes back later is to be stopped by the next try
                once(draft, request, lambda: self._cancel(draft, request))
            return turn

        reads = Reads(turns=[turn_id], operation=request.request_id, running=True)
        turn, draft = await self._live.transact(session_id, decide, reads)
        self._publisher.after(draft)
        if turn is not None and turn.phase == CANCELLING:
            await self._finish_stop(session_id, turn_id)
        return await self.get(caller, turn_id)

    def _cancel(self, draft: Draft, request: pb.CancelTurnRequest) -> None:
        cancel(draft, request.turn_id, request.request_id, self._timing)

    async def _unfinished(self, turn_id: str) -> RunTurn | None:
        """Return the job of a turn that is here, or comes back with its session."""
        known = await self._store.turn(turn_id)
        if known is not None:
            return None if known.phase == STUB else known.job
        row = await self._archive.turn(turn_id, "")
        over = row.session_deleted or row.HasField("finished") or not row.HasField("job")
        return None if over else row.job

    async def _finish_stop(
        self, session_id: str, turn_id: str, next_turn_id: str = ""
    ) -> asyncio.Task[bool] | None:
        # The fence has moved: nobody can add to the log any more.
        partial = (await story_of(self._store, turn_id)).text
        _, draft = await self._live.transact(
            session_id,
            lambda draft: finish_stop(draft, turn_id, partial, self._timing),
            Reads(turns=[turn_id], annotations=True),
        )
        return self._publisher.after(draft, next_turn_id)


def _shown(turn: TurnRecord, session: SessionRecord | None) -> pb.Turn:
    place = place_in_line(session, turn.job.turn_id) if session is not None else 0
    return public_turn(turn, waiting_position=place)


def _own(job: RunTurn, caller: Caller) -> None:
    if (job.tenant, job.user_id) != (caller.tenant, caller.user):
        raise turn_not_found(job.turn_id)


def _the_same(row: GetArchivedTurnResponse, job: RunTurn) -> pb.Turn:
    if row.job.request_hash != job.request_hash:
        raise RequestIdTaken
    return archived_turn(row)


async def _within(task: asyncio.Task[bool], seconds: float) -> bool:
    """Return the task's answer if it has one by then; the task goes on in any case."""
    done, _ = await asyncio.wait([task], timeout=seconds)
    return bool(done) and not task.cancelled() and task.exception() is None and task.result()
