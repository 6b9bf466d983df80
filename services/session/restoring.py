"""How a session and its turns come back from the archive, or a turn from its job. Pure."""

from maieutic.archive.v1.archive_service_pb2 import (
    GetArchivedTurnResponse,
    GetSessionSnapshotResponse,
)
from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import record_pb2 as record
from maieutic.v1.message_pb2 import Message
from maieutic.v1.turn_service_pb2 import TurnAccepted, TurnFrame
from services.session.model import (
    QUEUED,
    WAITING,
    Draft,
    EventId,
    RunJob,
    Timing,
    next_stamp,
)
from services.session.views import public_turn


def restore(draft: Draft, snapshot: GetSessionSnapshotResponse, timing: Timing) -> None:
    """Bring the session back with every turn that the archive knows as unfinished, in their order.

    What ends in a restored session is shown only once it is archived: the archive may yet receive
    an outcome from before.
    """
    draft.session = record.SessionRecord(
        tenant=snapshot.tenant,
        session=snapshot.session,
        next_position=snapshot.last_position + 1,
        last_turn_id=snapshot.last_turn_id,
        archived_revision=snapshot.session.revision,
        restored=True,
    )
    draft.record.session.active_turn_id = ""
    unfinished = {job.turn_id for job in snapshot.unfinished}
    count = snapshot.session.message_count
    for message in snapshot.window:
        if message.turn_id not in unfinished:
            _keep(draft, message)
    draft.record.session.message_count = max(count, len(draft.record.window))
    draft.touch()
    # A new revision that nothing else tells of: without this the session could never settle.
    draft.record.archived_revision = draft.record.session.revision
    for job in snapshot.unfinished:
        revive(draft, job, timing)


def _keep(draft: Draft, message: Message) -> None:
    draft.put_message(message)
    draft.record.window[-1].archived = True


def adopt(draft: Draft, job: RunTurn) -> None:
    """Make a session that neither the live store nor the archive knows from a job of its own."""
    draft.session = record.SessionRecord(
        tenant=job.tenant,
        session=job.session,
        next_position=max(job.message.position, 1),
        restored=True,
    )
    draft.record.session.active_turn_id = ""
    draft.record.session.message_count = max(job.message.position - 1, 0)
    draft.touch()


def revive(draft: Draft, job: RunTurn, timing: Timing) -> None:
    """Bring a turn back from its job: queued if nothing is before it, else waiting."""
    known = draft.turns.get(job.turn_id)
    if known is not None:
        return
    session = draft.record
    turn = record.TurnRecord(
        phase=WAITING,
        job=job,
        fence=next_stamp(0, draft.now_ms),
        acceptance_confirmed=True,
        provisional=True,
    )
    turn.job.session.CopyFrom(session.session)
    session.unarchived_turn_ids.append(job.turn_id)
    session.last_turn_id = job.turn_id
    if session.session.active_turn_id or session.waiting_turn_ids:
        session.waiting_turn_ids.append(job.turn_id)
        draft.due[job.turn_id] = draft.now_ms + timing.queue_check
    else:
        turn.phase = QUEUED
        draft.put_message(turn.job.message)
        session.session.active_turn_id = job.turn_id
        draft.due[job.turn_id] = draft.now_ms + timing.publish_grace
        draft.effects.append(RunJob(job=turn.job))
    draft.put_turn(turn)
    draft.touch()
    accepted = TurnFrame(turn_id=job.turn_id, accepted=TurnAccepted(turn=public_turn(turn)))
    draft.events.append((job.turn_id, EventId(turn.fence, 0), accepted))


def rebuild(draft: Draft, job: RunTurn, row: GetArchivedTurnResponse, timing: Timing) -> None:
    """Bring back a turn that the live store lost, unless the archive knows its end."""
    if job.turn_id in draft.turns or row.session_deleted or row.HasField("finished"):
        return
    if draft.session is None:
        adopt(draft, job)
    if not draft.record.tombstone:
        revive(draft, job, timing)
