"""The states of a turn, row by row, from claim to cancel. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from google.protobuf.duration_pb2 import Duration

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.session.v1 import record_pb2 as record, turn_work_service_pb2 as work
from maieutic.v1.turn_service_pb2 import (
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TURN_STATE_OVER_BUDGET,
    TurnFrame,
    TurnStarted,
    Usage,
)
from services.session.attempts import attempts_spent, is_suspect
from services.session.budgets import is_bounded, reserve, settle, void_rest
from services.session.ending import Ending, end, end_waiting, stop
from services.session.errors import EventsOutOfStep
from services.session.findings import hand_on, keep, named, show_as_kept
from services.session.handing_on import begin_handed_on
from services.session.happenings import step_finished, turn_started
from services.session.model import (
    CLAIM_BYTES,
    LEASED,
    LIVE,
    PROVISIONAL,
    QUEUED,
    STUB,
    TERMINAL,
    WAITING,
    Draft,
    EventId,
    Timing,
    latest_messages,
    timestamp,
)

TRACED_ATTEMPTS = 5
"""Of a turn that is handed back again and again only the last ones are linked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who wants a turn: a worker process and its claim, which stays the same over retries."""

    worker_id: str
    claim_id: str
    traceparent: str = ""
    """W3C trace context of the attempt."""
    from_lane: bool = False
    """Whether it got the job from its lane, beside other turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a worker shows with each write: the fence it was given and its claim."""

    turn_id: str
    fence: int
    claim_id: str
    finished_steps: int = 0
    """So many the worker knows as committed."""


def claim(draft: Draft, turn_id: str, claimant: Claimant, timing: Timing) -> work.ClaimTurnResponse:
    """Give the turn to one worker, with a new fence and the fresh window."""
    turn = draft.turns.get(turn_id)
    if turn is None or turn.phase == STUB:
        return work.ClaimTurnResponse(gone=work.TurnGone())
    if turn.phase in (TERMINAL, PROVISIONAL):
        return work.ClaimTurnResponse(finished=turn.finished)
    if turn.phase == LEASED and turn.claim_id == claimant.claim_id:
        if turn_id not in draft.tails:
            _begin_log(draft, turn)  # it was lost alone, and takes no frames under the old fence
        _renew(draft, turn, timing)
        return _granted(draft, turn, claimant, timing)
    if not _is_free(turn, claimant, draft.now_ms):
        return work.ClaimTurnResponse(held=work.TurnHeld())
    if attempts_spent(turn):
        draft.due[turn_id] = draft.now_ms
        return work.ClaimTurnResponse(held=work.TurnHeld())
    _take(draft, turn, claimant)
    _renew(draft, turn, timing)
    return _granted(draft, turn, claimant, timing)


def _is_free(turn: record.TurnRecord, claimant: Claimant, now_ms: int) -> bool:
    """Whether the claimant may have the turn, as far as others are concerned."""
    if turn.phase == QUEUED:
        return turn.not_before_ms <= now_ms
    # The broker brings a dead worker's jobs back to their lanes, all together, where a suspect
    # would kill its neighbours again: those who take suspects one by one get it from the clock.
    kept_apart = claimant.from_lane and is_suspect(turn)
    return turn.phase == LEASED and turn.lease_end_ms <= now_ms and not kept_apart


def _take(draft: Draft, turn: record.TurnRecord, claimant: Claimant) -> None:
    turn.phase = LEASED
    turn.claim_id, turn.worker_id = claimant.claim_id, claimant.worker_id
    turn.attempt += 1
    turn.excused += turn.beside  # whoever had it beside others until now is gone
    turn.beside = claimant.from_lane
    turn.start_ms = turn.start_ms or draft.now_ms
    turn.not_before_ms = 0
    if claimant.traceparent:
        turn.attempt_traceparents.append(claimant.traceparent)
        del turn.attempt_traceparents[:-TRACED_ATTEMPTS]
    _begin_log(draft, turn)
    draft.log(turn_started(turn))


def _begin_log(draft: Draft, turn: record.TurnRecord) -> None:
    """Move the fence, and make the log ready for what is said under it; all before is void."""
    fence, turn_id = draft.next_fence(turn), turn.job.turn_id
    started = TurnFrame(turn_id=turn_id, started=TurnStarted(attempt=turn.attempt))
    draft.events.append((turn_id, EventId(fence, 0), started))


def _renew(draft: Draft, turn: record.TurnRecord, timing: Timing) -> None:
    turn.lease_end_ms = draft.now_ms + timing.lease
    draft.due[turn.job.turn_id] = next_look(turn, timing)
    draft.put_turn(turn)


def next_look(turn: record.TurnRecord, timing: Timing) -> int:
    """Return when a leased turn is to be looked at: no renewal puts off the end of its budget."""
    return min(turn.lease_end_ms, _deadline_ms(turn) + timing.cancel_grace)


def _granted(
    draft: Draft, turn: record.TurnRecord, claimant: Claimant, timing: Timing
) -> work.ClaimTurnResponse:
    granted = work.TurnClaim(
        fence=turn.fence,
        attempt=turn.attempt,
        max_attempts=turn.job.max_attempts,
        session=draft.record.session,
        deadline=timestamp(_deadline_ms(turn)),
        earlier_traceparents=[
            one for one in turn.attempt_traceparents if one != claimant.traceparent
        ],
        findings=draft.kept_annotations.findings,
        finished_steps=[step.step for step in turn.finished_steps],
        steps=turn.finished_steps,
        budgeted=is_bounded(draft, turn),
    )
    lease = Duration()
    lease.FromMilliseconds(timing.lease)
    granted.lease.CopyFrom(lease)
    hand_on(turn, granted.findings)
    granted.window.extend(latest_messages(draft, CLAIM_BYTES - granted.ByteSize()))
    return work.ClaimTurnResponse(claim=granted)


def _held_turn(draft: Draft, hold: Hold) -> record.TurnRecord | None:
    """Return the turn if this hold is the one that stands, and nothing of it is lost."""
    turn = draft.turns.get(hold.turn_id)
    if turn is None or not _stands(turn, hold):
        return None
    return turn if len(turn.finished_steps) >= hold.finished_steps else None


def _stands(turn: record.TurnRecord, hold: Hold) -> bool:
    return turn.phase == LEASED and (turn.fence, turn.claim_id) == (hold.fence, hold.claim_id)


def _refusal(draft: Draft, hold: Hold) -> work.WriteStatus.ValueType:
    turn = draft.turns.get(hold.turn_id)
    missing = turn is None or _stands(turn, hold)
    return work.WRITE_STATUS_MISSING if missing else work.WRITE_STATUS_FENCED


def heartbeat(draft: Draft, hold: Hold, timing: Timing) -> work.WriteStatus.ValueType:
    """Renew the lease; also one that has passed, as long as nobody else has claimed the turn."""
    if (turn := _held_turn(draft, hold)) is None:
        return _refusal(draft, hold)
    _renew(draft, turn, timing)
    return work.WRITE_STATUS_APPLIED


def reserve_budget(
    draft: Draft, hold: Hold, asked: work.ReserveBudgetRequest
) -> work.ReserveBudgetResponse:
    """Keep what a call of a model may consume, or refuse the call."""
    if (turn := _held_turn(draft, hold)) is None:
        return work.ReserveBudgetResponse(status=_refusal(draft, hold))
    return reserve(draft, turn, asked)


def settle_budget(draft: Draft, told: work.SettleBudgetRequest) -> None:
    """Note what a run has consumed that has ended; the turn may have ended, too."""
    if (turn := draft.turns.get(told.turn_id)) is None:
        return
    settle(draft, turn, told.usage)
    draft.put_turn(turn)
    if draft.session_changed and turn.phase not in LIVE:
        # Nothing else tells the archive that the turn's outcome was not the last word.
        draft.touch()
        draft.tell_session()


def complete_step(draft: Draft, hold: Hold, step: record.FinishedStep) -> work.CompleteStepResponse:
    """Commit what one agent of the routing slip has found; its turn goes on with the next."""
    if (turn := _held_turn(draft, hold)) is None:
        return work.CompleteStepResponse(status=_refusal(draft, hold))
    if step.step not in (done.step for done in turn.finished_steps):
        step.findings.CopyFrom(named(step.findings, turn, draft.now_ms))
        keep(draft, step.findings)
        show_as_kept(step.findings, draft.kept_annotations.findings)
        step.attempt = turn.attempt
        turn.finished_steps.append(step)
        turn.excused = 0
        settle(draft, turn, step.usage)
        draft.log(step_finished(turn, step))
        draft.put_turn(turn)
    response = work.CompleteStepResponse(
        status=work.WRITE_STATUS_APPLIED, findings=draft.kept_annotations.findings
    )
    hand_on(turn, response.findings)
    return response


def completed_step(request: work.CompleteStepRequest) -> record.FinishedStep:
    """Return a worker's step."""
    return record.FinishedStep(
        step=request.step,
        findings=request.findings,
        usage=request.usage,
        fence=request.fence,
        artifacts=request.artifacts,
    )


def complete(
    draft: Draft,
    hold: Hold,
    ending: Ending,
    last_seq: int,
    timing: Timing,
    *,
    beside: Sequence[RunTurn] = (),
) -> work.CompleteTurnResponse:
    """Commit a worker's outcome, and begin what it hands on; the same claim again gets the same.

    Raises EventsOutOfStep if the log does not end with the worker's last frame.
    """
    if (stored := _own_result(draft, hold)) is not None:
        return work.CompleteTurnResponse(status=work.WRITE_STATUS_APPLIED, finished=stored)
    if (turn := _held_turn(draft, hold)) is None:
        return work.CompleteTurnResponse(status=_refusal(draft, hold))
    tail = draft.tails.get(hold.turn_id)
    if tail is not None and tail != (hold.fence, last_seq):
        raise EventsOutOfStep(tail.seq, last_seq)
    _settle_run(draft, turn, hold, ending.usage)
    if ending.state == TURN_STATE_COMPLETED:
        ending = replace(ending, handed_on=begin_handed_on(draft, beside, timing))
    finished = end(draft, turn, ending, timing)
    return work.CompleteTurnResponse(status=work.WRITE_STATUS_APPLIED, finished=finished)


def _settle_run(draft: Draft, turn: record.TurnRecord, hold: Hold, told: Iterable[Usage]) -> None:
    """Note what a run has consumed that ends: what it says nothing of was not consumed.

    Its steps may be older than the budget.
    """
    in_steps = (usage for step in turn.finished_steps for usage in step.usage)
    settle(draft, turn, [*in_steps, *told])
    void_rest(draft, turn, hold.claim_id)


def _own_result(draft: Draft, hold: Hold) -> TurnFinished | None:
    turn = draft.turns.get(hold.turn_id)
    if turn is None or turn.phase not in (TERMINAL, PROVISIONAL):
        return None
    own = (turn.finished.outcome.fence, turn.claim_id) == (hold.fence, hold.claim_id)
    return turn.finished if own else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a worker says of an attempt that failed."""

    ending: Ending
    retryable: bool
    retry_after_ms: int


def fail_attempt(
    draft: Draft, hold: Hold, failure: Failure, timing: Timing
) -> work.FailTurnResponse:
    """Queue the turn again if that makes sense, else end it as failed."""
    if (stored := _own_result(draft, hold)) is not None:
        return work.FailTurnResponse(status=work.WRITE_STATUS_APPLIED, finished=stored)
    if (turn := _held_turn(draft, hold)) is None:
        return work.FailTurnResponse(status=_refusal(draft, hold))
    _settle_run(draft, turn, hold, failure.ending.usage)
    turn.beside = False  # it was not lost: whatever ran beside it, it counts
    # A next attempt that the time budget forbids would only keep the caller waiting.
    in_time = draft.now_ms + failure.retry_after_ms < _deadline_ms(turn)
    if failure.retryable and in_time and not attempts_spent(turn):
        _queue_again(draft, turn, failure.retry_after_ms)
        return work.FailTurnResponse(status=work.WRITE_STATUS_APPLIED)
    finished = end(draft, turn, failure.ending, timing)
    return work.FailTurnResponse(status=work.WRITE_STATUS_APPLIED, finished=finished)


def release(
    draft: Draft, hold: Hold, retry_after_ms: int, consumed: Iterable[Usage] = ()
) -> work.WriteStatus.ValueType:
    """Take the turn back from a worker that cannot go on; the attempt does not count."""
    if (turn := _held_turn(draft, hold)) is None:
        return _refusal(draft, hold)
    _settle_run(draft, turn, hold, consumed)
    turn.attempt -= 1
    _queue_again(draft, turn, retry_after_ms)
    return work.WRITE_STATUS_APPLIED


def _queue_again(draft: Draft, turn: record.TurnRecord, retry_after_ms: int) -> None:
    turn.phase = QUEUED
    turn.claim_id = turn.worker_id = ""
    turn.beside = False
    turn.lease_end_ms = 0
    turn.job_confirmed = False
    turn.not_before_ms = draft.now_ms + retry_after_ms if retry_after_ms else 0
    # Looked at when its budget is spent at the latest: nothing makes a turn wait beyond that.
    draft.due[turn.job.turn_id] = min(draft.now_ms + retry_after_ms, _deadline_ms(turn))
    draft.put_turn(turn)


def cancel(draft: Draft, turn_id: str, request_id: str, timing: Timing) -> None:
    """Stop the turn (step 1), or leave it as it has ended, or as it is missing."""
    turn = draft.turns.get(turn_id)
    if turn is None:
        return
    intent = record.TurnIntent(
        state=TURN_STATE_CANCELLED,
        reason="CANCELLED_BY_CALLER",
        explanation="the turn was cancelled",
        request_id=request_id,
    )
    if turn.phase == WAITING:
        end_waiting(draft, turn, intent, timing)
    elif turn.phase in (QUEUED, LEASED):
        stop(draft, turn, intent, timing)


def completed(request: work.CompleteTurnRequest, most_bytes: int) -> Ending:
    """Return a worker's answer as an ending; with more than *most_bytes* it is a failure."""
    size = len(request.text.encode()) + sum(cited.ByteSize() for cited in request.citations)
    if size > most_bytes:
        explanation = (
            f"the answer has {size} bytes, the limit answer_bytes is {most_bytes}: ask for a "
            "shorter one, or for a part of it"
        )
        return Ending(
            state=TURN_STATE_FAILED,
            usage=request.usage,
            reason="ANSWER_TOO_LARGE",
            explanation=explanation,
        )
    return Ending(
        state=TURN_STATE_COMPLETED,
        text=request.text,
        citations=request.citations,
        usage=request.usage,
        findings=request.findings,
        artifacts=request.artifacts,
    )


def failed(request: work.FailTurnRequest) -> Failure:
    """Return a worker's failure."""
    ending = Ending(
        state=TURN_STATE_OVER_BUDGET if request.over_budget else TURN_STATE_FAILED,
        text=request.text,
        usage=request.usage,
        reason=request.reason,
        explanation=request.explanation,
    )
    return Failure(
        ending=ending,
        retryable=request.retryable,
        retry_after_ms=request.retry_after.ToMilliseconds(),
    )


def budget_spent(turn: record.TurnRecord, now_ms: int) -> bool:
    """Whether the turn has run longer than it may; waiting for a worker does not count."""
    return bool(turn.start_ms) and now_ms >= _deadline_ms(turn)


def _deadline_ms(turn: record.TurnRecord) -> int:
    return turn.start_ms + turn.job.time_budget.ToMilliseconds()
