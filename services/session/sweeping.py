"""What the clock of unfinished work does with a turn that is overdue. Pure."""

from maieutic.session.v1 import record_pb2 as record
from maieutic.v1.turn_service_pb2 import TURN_STATE_FAILED
from services.session.attempts import attempts_spent, is_suspect
from services.session.ending import fail, finish_stop, promote, stop
from services.session.model import (
    CANCELLING,
    LEASED,
    PROVISIONAL,
    QUEUED,
    STUB,
    TERMINAL,
    WAITING,
    Draft,
    RunJob,
    Timing,
    milliseconds,
)
from services.session.transitions import budget_spent, next_look

ATTEMPTS_SPENT = "every attempt of this turn failed or was lost: ask again"
BUDGET_SPENT = "the turn ran longer than its time budget: ask again, or raise time_budget"


def sweep(
    draft: Draft,
    turn_id: str,
    partial: str,
    timing: Timing,
    *,
    judge_leases: bool,
    predecessor_over: bool = False,
) -> None:
    """Do what is overdue for the turn.

    *partial* is the text of the turn's log, for a stop that its caller did not finish. Leases are
    judged only if the workers have been able to renew them for as long as a lease lasts. A waiting
    turn is promoted only if the turn before it is over.
    """
    turn = draft.turns.get(turn_id)
    if turn is None or turn.phase == STUB:
        draft.due[turn_id] = None
    elif turn.phase == WAITING:
        _waiting(draft, turn, timing, predecessor_over=predecessor_over)
    elif turn.phase == CANCELLING:
        finish_stop(draft, turn_id, partial, timing)
    elif turn.phase in (TERMINAL, PROVISIONAL):
        ended = milliseconds(turn.finished.outcome.finish_time)
        draft.due[turn_id] = _later(draft, ended, timing.archive_grace, timing.longest_backoff)
        draft.effects.append(turn.finished)
    elif turn.phase == LEASED and turn.lease_end_ms > draft.now_ms:
        _running(draft, turn, timing)
    elif turn.phase == LEASED and not judge_leases:
        draft.due[turn_id] = draft.now_ms + timing.cancel_grace
    else:
        _run_again_or_end(draft, turn, timing)


def _later(draft: Draft, since_ms: int, least: int, most: int) -> int:
    """Return when to try again: after as long as it has taken so far, so ever more rarely."""
    return draft.now_ms + max(least, min(draft.now_ms - since_ms, most))


def _waiting(
    draft: Draft, turn: record.TurnRecord, timing: Timing, *, predecessor_over: bool
) -> None:
    turn_id = turn.job.turn_id
    draft.due[turn_id] = draft.now_ms + timing.queue_check
    if predecessor_over and draft.record.waiting_turn_ids[:1] == [turn_id]:
        promote(draft, timing)


def _running(draft: Draft, turn: record.TurnRecord, timing: Timing) -> None:
    """Stop a turn whose worker goes on beyond the budget; it had some time to end by itself."""
    if budget_spent(turn, draft.now_ms - timing.cancel_grace):
        _stop_over_budget(draft, turn, timing)
    else:
        draft.due[turn.job.turn_id] = next_look(turn, timing)


def _run_again_or_end(draft: Draft, turn: record.TurnRecord, timing: Timing) -> None:
    turn_id, now = turn.job.turn_id, draft.now_ms
    if budget_spent(turn, now):
        _stop_over_budget(draft, turn, timing)
    elif attempts_spent(turn):
        fail(draft, turn, "ATTEMPTS_SPENT", ATTEMPTS_SPENT, timing)
    elif turn.phase == QUEUED and turn.not_before_ms > now:
        draft.due[turn_id] = turn.not_before_ms
    else:
        draft.due[turn_id] = _next_publication(draft, turn, timing)
        draft.effects.append(RunJob(job=turn.job, suspect=is_suspect(turn)))


def _next_publication(draft: Draft, turn: record.TurnRecord, timing: Timing) -> int:
    if turn.phase == LEASED:
        return _later(draft, turn.lease_end_ms, timing.lease, timing.longest_backoff)
    since = milliseconds(turn.job.create_time)
    if turn.job_confirmed:
        return _later(draft, since, timing.queue_check, timing.longest_backoff)
    return _later(draft, since, timing.publish_grace, timing.queue_check)


def _stop_over_budget(draft: Draft, turn: record.TurnRecord, timing: Timing) -> None:
    intent = record.TurnIntent(
        state=TURN_STATE_FAILED, reason="TIME_BUDGET_SPENT", explanation=BUDGET_SPENT
    )
    stop(draft, turn, intent, timing)
    draft.due[turn.job.turn_id] = draft.now_ms
