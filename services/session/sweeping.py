"""What the clock of unfinished work does with a turn that is overdue. Pure."""

from maieutic.session.v1 import record_pb2 as record
from maieutic.v1.turn_service_pb2 import TURN_STATE_FAILED
from services.session.ending import fail, finish_stop, promote, stop
from services.session.model import (
    CANCELLING,
    LEASED,
    PROVISIONAL,
    QUEUED,
    TERMINAL,
    WAITING,
    Draft,
    RunJob,
    Timing,
)
from services.session.transitions import budget_spent

ATTEMPTS_SPENT = "every attempt of this turn failed or was lost: ask again"
BUDGET_SPENT = "the turn ran longer than its time budget: ask again, or raise time_budget"


def sweep(draft: Draft, turn_id: str, partial: str, timing: Timing, *, judge_leases: bool) -> None:
    """Do what is overdue for the turn.

    *partial* is the text of the turn's log, for a stop that its caller did not finish. Leases are
    judged only if the workers have been able to renew them for as long as a lease lasts.
    """
    turn = draft.turns.get(turn_id)
    if turn is None or turn.phase not in (
        WAITING,
        QUEUED,
        LEASED,
        CANCELLING,
        TERMINAL,
        PROVISIONAL,
    ):
        draft.due[turn_id] = None
        return
    if turn.phase == WAITING:
        _waiting(draft, turn, timing)
    elif turn.phase == CANCELLING:
        finish_stop(draft, turn_id, partial, timing)
    elif turn.phase in (TERMINAL, PROVISIONAL):
        draft.due[turn_id] = draft.now_ms + timing.archive_grace
        draft.effects.append(turn.finished)
    elif turn.phase == LEASED and turn.lease_end_ms > draft.now_ms:
        draft.due[turn_id] = turn.lease_end_ms
    elif turn.phase == LEASED and not judge_leases:
        draft.due[turn_id] = draft.now_ms + timing.cancel_grace
    else:
        _run_again_or_end(draft, turn, timing)


def _waiting(draft: Draft, turn: record.TurnRecord, timing: Timing) -> None:
    draft.due[turn.job.turn_id] = draft.now_ms + timing.queue_check
    promote(draft, timing)


def _run_again_or_end(draft: Draft, turn: record.TurnRecord, timing: Timing) -> None:
    turn_id, now = turn.job.turn_id, draft.now_ms
    if budget_spent(turn, now):
        intent = record.TurnIntent(
            state=TURN_STATE_FAILED, reason="TIME_BUDGET_SPENT", explanation=BUDGET_SPENT
        )
        stop(draft, turn, intent, timing)
        draft.due[turn_id] = now
    elif turn.attempt >= turn.job.max_attempts:
        fail(draft, turn, "ATTEMPTS_SPENT", ATTEMPTS_SPENT, timing)
    elif turn.phase == QUEUED and turn.not_before_ms > now:
        draft.due[turn_id] = turn.not_before_ms
    else:
        # A job whose worker died goes to the suspect queue, where it can hurt no neighbour.
        draft.due[turn_id] = now + max(timing.publish_grace, timing.lease)
        draft.effects.append(RunJob(job=turn.job, suspect=turn.phase == LEASED))
