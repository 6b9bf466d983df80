"""How turns begin: at once, in line behind others, or in place of the one that runs. Pure."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import record_pb2 as record
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    BUSY_POLICY_INTERRUPT,
    BUSY_POLICY_ROLLBACK,
    TURN_STATE_INTERRUPTED,
    TURN_STATE_ROLLED_BACK,
    BusyPolicy,
)
from services.session.accepting import accept, begin_aside, new_turn
from services.session.ending import end_waiting, stop
from services.session.errors import LineFull, RequestIdTaken, SessionBusy
from services.session.model import (
    CANCELLING,
    LEASED,
    QUEUED,
    WAITING,
    Draft,
    RunJob,
    Timing,
    aside,
    say,
    takes_over,
)

MOST_WAITING = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replacement:
    """How the turn ends that another one takes over from."""

    state: int
    reason: str
    explanation: str


_REPLACED: Mapping[BusyPolicy.ValueType, _Replacement] = MappingProxyType(
    {
        BUSY_POLICY_INTERRUPT: _Replacement(
            state=TURN_STATE_INTERRUPTED,
            reason="INTERRUPTED_BY_NEXT_TURN",
            explanation="another turn was begun that interrupts this one",
        ),
        BUSY_POLICY_ROLLBACK: _Replacement(
            state=TURN_STATE_ROLLED_BACK,
            reason="ROLLED_BACK_BY_NEXT_TURN",
            explanation="another turn was begun as if this one had never been asked",
        ),
    }
)


def begin(
    draft: Draft, job: RunTurn, timing: Timing, *, most_waiting: int = MOST_WAITING
) -> record.TurnRecord:
    """Accept a turn, or find the one that this request id began before.

    Raises RequestIdTaken for another request under the same id. While another turn is there, the
    job's busy policy decides: SessionBusy is raised, or LineFull if *most_waiting* wait already.
    """
    if (known := draft.turns.get(job.turn_id)) is not None:
        return _begun_before(draft, known, job)
    # The caller's own stays as it is: after a conflict it is begun again, at another place.
    job = copy.deepcopy(job)
    if aside(job):
        return begin_aside(draft, job, timing)
    ahead = draft.record.session.active_turn_id or "".join(draft.record.waiting_turn_ids[:1])
    if not ahead:
        return _start(draft, job, timing)
    if takes_over(job):
        _make_way(draft, job, timing)
        return _line_up(draft, job, timing, first=True)
    if job.busy_policy != BUSY_POLICY_ENQUEUE:
        raise SessionBusy(ahead)
    if len(draft.record.waiting_turn_ids) >= most_waiting:
        raise LineFull(most_waiting)
    return _line_up(draft, job, timing, first=False)


def _begun_before(draft: Draft, known: record.TurnRecord, job: RunTurn) -> record.TurnRecord:
    if known.job.request_hash != job.request_hash:
        raise RequestIdTaken
    if known.phase == QUEUED and not known.job_confirmed and known.attempt == 0:
        # The first try may have died before it could publish. Workers know the job again.
        draft.effects.append(RunJob(job=known.job))
    return known


def _start(draft: Draft, job: RunTurn, timing: Timing) -> record.TurnRecord:
    """Begin in an idle session."""
    session = draft.record
    job.predecessor_turn_id = session.last_turn_id
    turn = new_turn(draft, job, QUEUED)
    say(draft, turn.job)
    session.session.active_turn_id = session.last_turn_id = job.turn_id
    draft.due[job.turn_id] = draft.now_ms + timing.publish_grace
    accept(draft, turn)
    draft.effects.append(RunJob(job=turn.job))
    return turn


def _line_up(draft: Draft, job: RunTurn, timing: Timing, *, first: bool) -> record.TurnRecord:
    """Wait for the turns before; the message stays in the turn until it is promoted."""
    session = draft.record
    # What is begun next follows the last in line, which this one is unless it goes before others.
    if first and session.waiting_turn_ids:
        job.predecessor_turn_id = _running(draft)
    else:
        job.predecessor_turn_id, session.last_turn_id = session.last_turn_id, job.turn_id
    turn = new_turn(draft, job, WAITING)
    session.waiting_turn_ids.insert(0 if first else len(session.waiting_turn_ids), job.turn_id)
    draft.due[job.turn_id] = draft.now_ms + timing.queue_check
    accept(draft, turn)
    return turn


def _running(draft: Draft) -> str:
    """Return the turn that runs, or, if none does, the one that the first in line waits for."""
    session = draft.record
    first = draft.turns[session.waiting_turn_ids[0]].job
    return session.session.active_turn_id or first.predecessor_turn_id


def _make_way(draft: Draft, job: RunTurn, timing: Timing) -> None:
    """Stop the turn that runs, and end the one that was to start in its place.

    So of two that interrupt at the same time the later one starts, whether or not the stop that
    the other one began was finished in between.
    """
    session, how = draft.record, _REPLACED[job.busy_policy]
    intent = record.TurnIntent(
        state=how.state,
        reason=how.reason,
        explanation=how.explanation,
        request_id=job.request_id,
    )
    next_one = draft.turns[session.waiting_turn_ids[0]] if session.waiting_turn_ids else None
    if next_one is not None and takes_over(next_one.job):
        end_waiting(draft, next_one, intent, timing)
    running = draft.turns.get(session.session.active_turn_id)
    if running is not None and running.phase in (QUEUED, LEASED):
        stop(draft, running, intent, timing)


def unfinished_stop(draft: Draft, turn: record.TurnRecord) -> str:
    """Return the turn whose stop must be finished before this one can start, if there is one."""
    running = draft.turns.get(draft.record.session.active_turn_id)
    if turn.phase != WAITING or not takes_over(turn.job) or running is None:
        return ""
    return running.job.turn_id if running.phase == CANCELLING else ""


def confirm_job(draft: Draft, turn_id: str, timing: Timing) -> None:
    """Note that the broker has the job. A turn that was claimed since shows as much by itself."""
    turn = draft.turns.get(turn_id)
    if turn is None or turn.phase != QUEUED or turn.job_confirmed:
        return
    turn.job_confirmed = True
    draft.due[turn_id] = draft.now_ms + timing.queue_check
    draft.put_turn(turn)
