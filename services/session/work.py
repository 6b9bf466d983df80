"""What workers do with turns, and what the archive has brought back."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import turn_work_service_pb2 as pb
from maieutic.session.v1.record_pb2 import TurnRecord
from services.session.archive import Archive
from services.session.at_once import for_each
from services.session.ids import check_jobs, checked, checked_all
from services.session.jobs import Jobs
from services.session.live import LiveSessions
from services.session.model import LEASED, Draft, EventId, Timing
from services.session.observing import messages_loaded
from services.session.ports import Append, AppendOutcome, Reads, SessionStore
from services.session.publisher import Publisher
from services.session.restoring import rebuild
from services.session.transitions import (
    Claimant,
    Hold,
    claim,
    complete,
    complete_step,
    completed,
    completed_step,
    fail_attempt,
    failed,
    heartbeat,
    release,
    reserve_budget,
    settle_budget,
)

T = TypeVar("T")
_WITHOUT_STEPS = pb.ReserveBudgetRequest | pb.ReleaseTurnRequest

_AT_ONCE = 16


class Work:
    """Claims, records, outcomes, and turns that are brought back."""

    def __init__(
        self,
        *,
        store: SessionStore,
        live: LiveSessions,
        archive: Archive,
        publisher: Publisher,
        timing: Timing,
        jobs: Jobs,
        answer_bytes: int,
    ) -> None:
        self._store = store
        self._live = live
        self._archive = archive
        self._publisher = publisher
        self._timing = timing
        self._jobs = jobs
        self._answer_bytes = answer_bytes
        self._renewed: dict[tuple[str, int], float] = {}

    async def claim(self, request: pb.ClaimTurnRequest) -> pb.ClaimTurnResponse:
        """Give the turn to the worker, rebuilding it from its job if the store has lost it."""
        job = request.job
        check_jobs("job", [job])
        claimant = Claimant(
            worker_id=request.worker_id,
            claim_id=request.claim_id,
            traceparent=request.traceparent,
            from_lane=request.from_lane,
        )

        def decide(draft: Draft) -> pb.ClaimTurnResponse:
            if draft.session is None or draft.session.tombstone:
                return pb.ClaimTurnResponse(gone=pb.TurnGone())
            return claim(draft, job.turn_id, claimant, self._timing)

        response, draft = await self._live.transact(
            job.message.session_id, decide, Reads.of_claim(job), self._rebuilding(job)
        )
        # A rebuilt turn's job is the one this worker holds: it need not go out again.
        draft.effects = [effect for effect in draft.effects if effect.job.turn_id != job.turn_id]
        self._publisher.after(draft)
        if response.HasField("claim"):
            response.claim.answer_bytes = self._answer_bytes
            found = len(draft.record.window)
            messages_loaded(
                draft.session_id,
                from_window=found - draft.from_archive,
                from_archive=draft.from_archive,
            )
            # The lease is fresh: the first heartbeats have nothing to write.
            self._note_renewal(job.turn_id, response.claim.fence)
        return response

    def _rebuilding(self, job: RunTurn) -> Callable[[Draft], Awaitable[None]]:
        async def prepare(draft: Draft) -> None:
            if job.turn_id not in draft.turns:
                row = await self._archive.turn(job.turn_id, job.message.session_id)
                over = await self._live.predecessor_over(draft, job)
                rebuild(draft, job, row, self._timing, predecessor_over=over)

        return prepare

    async def record(self, request: pb.RecordTurnEventsRequest) -> pb.RecordTurnEventsResponse:
        """Append a batch and renew leases; says which turns the worker has lost."""
        checked_all("events.turn_id", (events.turn_id for events in request.events))
        checked_all("heartbeats.turn_id", (beat.turn_id for beat in request.heartbeats))
        appends = [
            Append(turn_id=e.turn_id, first=EventId(e.fence, e.first_seq), frames=e.frames)
            for e in request.events
        ]
        outcomes = await self._store.append(appends)
        response = pb.RecordTurnEventsResponse(batch_id=request.batch_id)
        for append, outcome in zip(appends, outcomes, strict=True):
            if outcome == AppendOutcome.FENCED:
                response.fenced_turn_ids.append(append.turn_id)
            elif outcome == AppendOutcome.MISSING:
                response.missing_turn_ids.append(append.turn_id)
        await self._heartbeats(request.heartbeats, response)
        return response

    async def _heartbeats(
        self, beats: Sequence[pb.TurnHeartbeat], response: pb.RecordTurnEventsResponse
    ) -> None:
        turns = await self._store.turns([beat.turn_id for beat in beats])
        to_renew = []
        for beat, turn in zip(beats, turns, strict=True):
            if turn is None:
                response.missing_turn_ids.append(beat.turn_id)
            elif not _holds(turn, beat):
                response.fenced_turn_ids.append(beat.turn_id)
            elif self._renewal_due(beat):
                to_renew.append((beat, turn.job.message.session_id))
        await self._renew(to_renew)

    def _renewal_due(self, beat: pb.TurnHeartbeat) -> bool:
        """Whether a third of the lease has passed: a write for every beat would gain nothing."""
        last = self._renewed.get((beat.turn_id, beat.fence), 0.0)
        return time.monotonic() - last > self._timing.lease / 3000

    async def _renew(self, beats: Sequence[tuple[pb.TurnHeartbeat, str]]) -> None:
        async def one(held: tuple[pb.TurnHeartbeat, str]) -> None:
            beat, session_id = held
            hold = Hold(turn_id=beat.turn_id, fence=beat.fence, claim_id=beat.claim_id)
            await self._store.transact(
                session_id,
                lambda draft: heartbeat(draft, hold, self._timing),
                Reads(turns=[beat.turn_id]),
            )
            self._note_renewal(beat.turn_id, beat.fence)

        await for_each(beats, one)
        self._forget_old_renewals()

    def _note_renewal(self, turn_id: str, fence: int) -> None:
        self._renewed.pop((turn_id, fence), None)
        self._renewed[turn_id, fence] = time.monotonic()  # the last in the order of the dict

    def _forget_old_renewals(self) -> None:
        limit = time.monotonic() - self._timing.lease / 1000
        while self._renewed and next(iter(self._renewed.values())) < limit:
            del self._renewed[next(iter(self._renewed))]

    async def complete_step(self, request: pb.CompleteStepRequest) -> pb.CompleteStepResponse:
        """Commit what one agent of a turn's routing slip has found."""
        hold, step = _hold(request), completed_step(request)
        if (session_id := await self._session_of(request.turn_id)) is None:
            return pb.CompleteStepResponse(status=pb.WRITE_STATUS_MISSING)
        response, draft = await self._live.transact(
            session_id,
            lambda draft: complete_step(draft, hold, step),
            Reads(turns=[request.turn_id], annotations=True),
        )
        self._publisher.after(draft)
        return response

    async def reserve_budget(self, request: pb.ReserveBudgetRequest) -> pb.ReserveBudgetResponse:
        """Keep what a call of a model may consume, or refuse the call."""
        if (session_id := await self._session_of(request.turn_id)) is None:
            return pb.ReserveBudgetResponse(status=pb.WRITE_STATUS_MISSING)
        response, _ = await self._live.transact(
            session_id,
            lambda draft: reserve_budget(draft, _hold(request), request),
            Reads(turns=[request.turn_id]),
        )
        return response

    async def settle_budget(self, request: pb.SettleBudgetRequest) -> None:
        """Note what a run has consumed that has ended without telling it."""
        if (session_id := await self._session_of(request.turn_id)) is not None:
            _, draft = await self._live.transact(
                session_id,
                lambda draft: settle_budget(draft, request),
                Reads(turns=[request.turn_id]),
            )
            self._publisher.after(draft)

    async def complete(self, request: pb.CompleteTurnRequest) -> pb.CompleteTurnResponse:
        """Commit the answer; one that is too large ends the turn as failed."""
        hold, ending = _hold(request), completed(request, self._answer_bytes)
        if (session_id := await self._session_of(request.turn_id)) is None:
            return pb.CompleteTurnResponse(status=pb.WRITE_STATUS_MISSING)
        children = [self._jobs.handed_on_id(hold.turn_id, one.kind) for one in request.hand_on]

        def decide(draft: Draft) -> pb.CompleteTurnResponse:
            turn = draft.turns.get(request.turn_id, TurnRecord())
            beside = [self._jobs.handed_on(turn.job, one) for one in request.hand_on]
            return complete(draft, hold, ending, request.last_seq, self._timing, beside=beside)

        response, draft = await self._live.transact(
            session_id,
            decide,
            Reads(
                turns=[request.turn_id, *children],
                tails=True,
                annotations=request.HasField("findings"),
            ),
        )
        self._publisher.after(draft)
        return response

    async def fail(self, request: pb.FailTurnRequest) -> pb.FailTurnResponse:
        """End the attempt; the turn goes on if it may be tried again."""
        hold, failure = _hold(request), failed(request)
        if (session_id := await self._session_of(request.turn_id)) is None:
            return pb.FailTurnResponse(status=pb.WRITE_STATUS_MISSING)
        response, draft = await self._live.transact(
            session_id,
            lambda draft: fail_attempt(draft, hold, failure, self._timing),
            Reads(turns=[request.turn_id]),
        )
        self._publisher.after(draft)
        return response

    async def release(self, request: pb.ReleaseTurnRequest) -> pb.ReleaseTurnResponse:
        """Take the turn back; the attempt does not count."""
        wait_ms = request.retry_after.ToMilliseconds()
        if (session_id := await self._session_of(request.turn_id)) is None:
            return pb.ReleaseTurnResponse(status=pb.WRITE_STATUS_MISSING)
        status, draft = await self._live.transact(
            session_id,
            lambda draft: release(draft, _hold(request), wait_ms, request.usage),
            Reads(turns=[request.turn_id]),
        )
        self._publisher.after(draft)
        return pb.ReleaseTurnResponse(status=status)

    async def _session_of(self, turn_id: str) -> str | None:
        turn = await self._store.turn(checked("turn_id", turn_id))
        return turn.job.message.session_id if turn else None

    async def ensure(self, jobs: Sequence[RunTurn]) -> list[str]:
        """Bring back the turns that the store has lost; returns their ids."""
        check_jobs("jobs", jobs)
        present = await self._store.turns([job.turn_id for job in jobs])
        rebuilt = []
        for job, turn in zip(jobs, present, strict=True):
            if turn is not None:
                continue
            _, draft = await self._live.transact(
                job.message.session_id, lambda _: None, Reads.of_job(job), self._rebuilding(job)
            )
            self._publisher.after(draft)
            if job.turn_id in draft.turns_changed:
                rebuilt.append(job.turn_id)
        return rebuilt


def _holds(turn: TurnRecord, beat: pb.TurnHeartbeat) -> bool:
    held = (turn.fence, turn.claim_id) == (beat.fence, beat.claim_id)
    return held and turn.phase == LEASED


def _hold(
    request: pb.ReserveBudgetRequest
    | pb.CompleteStepRequest
    | pb.CompleteTurnRequest
    | pb.FailTurnRequest
    | pb.ReleaseTurnRequest,
) -> Hold:
    return Hold(
        turn_id=request.turn_id,
        fence=request.fence,
        claim_id=request.claim_id,
        finished_steps=0 if isinstance(request, _WITHOUT_STEPS) else request.finished_steps,
    )
