"""How turns are taken on, and those that run beside the conversation begin. Pure."""

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnAccepted
from maieutic.session.v1 import record_pb2 as record
from maieutic.v1.turn_service_pb2 import TurnAccepted as AcceptedFrame, TurnFrame
from services.session.errors import SideTurnsFull
from services.session.happenings import turn_accepted
from services.session.model import (
    QUEUED,
    Draft,
    EventId,
    RunJob,
    Timing,
    next_stamp,
    place_in_line,
    timestamp,
)
from services.session.views import public_turn

MOST_ASIDE = 32


def begin_aside(draft: Draft, job: RunTurn, timing: Timing) -> record.TurnRecord:
    """Begin beside the conversation, which goes on as if this turn were not there.

    Raises LimitReached if as many are there as may be.
    """
    if len(draft.record.side_turn_ids) >= MOST_ASIDE:
        raise SideTurnsFull(MOST_ASIDE)
    turn = new_turn(draft, job, QUEUED)
    draft.record.side_turn_ids.append(job.turn_id)
    draft.due[job.turn_id] = draft.now_ms + timing.publish_grace
    accept(draft, turn)
    draft.effects.append(RunJob(job=turn.job))
    return turn


def new_turn(draft: Draft, job: RunTurn, phase: record.TurnPhase.ValueType) -> record.TurnRecord:
    """Make the turn of a job; nothing is written yet."""
    job.create_time.CopyFrom(timestamp(draft.now_ms))
    job.message.create_time.CopyFrom(job.create_time)
    return record.TurnRecord(
        phase=phase,
        job=job,
        fence=next_stamp(0, draft.now_ms),
        provisional=draft.record.restored,
    )


def accept(draft: Draft, turn: record.TurnRecord) -> None:
    """Keep the turn, and tell its watchers and the archive."""
    session, turn_id = draft.record, turn.job.turn_id
    session.unarchived_turn_ids.append(turn_id)
    draft.touch()
    turn.job.session.CopyFrom(session.session)
    draft.put_turn(turn)
    shown = public_turn(turn, waiting_position=place_in_line(session, turn_id))
    frame = TurnFrame(turn_id=turn_id, accepted=AcceptedFrame(turn=shown))
    draft.events.append((turn_id, EventId(turn.fence, 0), frame))
    draft.log(turn_accepted(shown))
    draft.remember(TurnAccepted(job=turn.job))
