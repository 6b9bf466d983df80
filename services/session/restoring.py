"""How a session and its turns come back from the archive, or a turn from its job. Pure."""

from collections.abc import Sequence

from maieutic.archive.v1.archive_service_pb2 import (
    GetArchivedTurnResponse,
    GetSessionSnapshotResponse,
)
from maieutic.bus.v1.bus_pb2 import RunTurn, SessionAnnotations, SessionChanged, TurnAccepted
from maieutic.session.v1 import record_pb2 as record
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import SessionStatistics
from maieutic.v1.turn_service_pb2 import TurnAccepted as AcceptedFrame, TurnFrame
from services.session import summaries
from services.session.model import (
    LIVE,
    QUEUED,
    STUB,
    TERMINAL,
    WAITING,
    Draft,
    EventId,
    RunJob,
    Timing,
    aside,
    in_window,
    next_stamp,
    say,
    takes_over,
)
from services.session.spending import accounted, bring_back
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
        logged=True,  # its log may still be here, and somebody who reads it
    )
    draft.record.session.active_turn_id = ""
    _restore_annotations(draft, snapshot)
    unfinished = {job.turn_id for job in snapshot.unfinished}
    draft.messages.clear()
    refill(draft, [m for m in snapshot.window if m.turn_id not in unfinished])
    running = [turn.job for turn in draft.turns.values() if turn.phase != WAITING]
    waiting = [turn.job for turn in draft.turns.values() if turn.phase == WAITING]
    _revive_all(draft, _in_line([*running, *snapshot.unfinished, *waiting]), timing)


def _in_line(jobs: Sequence[RunTurn]) -> list[RunTurn]:
    """Return jobs in the order in which they run, given in the order of their acceptance.

    One that was begun to take over comes right after the turn that ran then, or else first.
    """
    line: list[RunTurn] = []
    for job in jobs:
        ids = [earlier.turn_id for earlier in line]
        if not takes_over(job):
            line.append(job)
        elif job.predecessor_turn_id in ids:
            line.insert(ids.index(job.predecessor_turn_id) + 1, job)
        else:
            line.insert(0, job)
    return line


def _restore_annotations(draft: Draft, snapshot: GetSessionSnapshotResponse) -> None:
    draft.annotations = SessionAnnotations()
    if snapshot.HasField("annotations"):
        draft.annotations.CopyFrom(snapshot.annotations)
        revision = snapshot.annotations.revision
        draft.record.annotations_revision = revision
        draft.record.archived_annotations_revision = revision
        draft.record.summary_position = draft.annotations.findings.summary.through_position
        draft.annotations_changed = True


def adopt_survivors(draft: Draft, timing: Timing) -> None:
    """Make the session that neither store knows from turns of it that are still here."""
    here = [turn.job for turn in draft.turns.values() if turn.phase != STUB]
    if here:
        adopt(draft, here[0])
        _revive_all(draft, here, timing)


def _revive_all(draft: Draft, jobs: Sequence[RunTurn], timing: Timing) -> None:
    for job in {job.turn_id: job for job in jobs}.values():
        revive(draft, job, timing)


def refill(draft: Draft, archived: Sequence[Message]) -> None:
    """Put what the archive knows into the window, before what is there."""
    session = draft.record
    later = [entry for entry in session.window if entry.message_id not in _ids(archived)]
    session.ClearField("window")
    for message in archived:
        draft.put_message(message)
        session.window[-1].archived = True
    session.window.extend(later)
    draft.from_archive = len(archived)
    draft.session_changed = True


def _ids(messages: Sequence[Message]) -> set[str]:
    return {message.message_id for message in messages}


def adopt(draft: Draft, job: RunTurn) -> None:
    """Make a session that neither the live store nor the archive knows from a job of its own."""
    draft.session = record.SessionRecord(
        tenant=job.tenant,
        session=job.session,
        next_position=max(job.message.position, 1),
        restored=True,
        logged=True,
    )
    session = draft.record.session
    session.session_id, session.user_id = draft.session_id, job.user_id
    session.active_turn_id = ""
    if session.HasField("budget"):
        bring_back(session, accounted(session.budget, SessionStatistics(), draft.turns.values()))
    draft.messages.clear()
    draft.annotations = SessionAnnotations()
    draft.touch()


def revive(draft: Draft, job: RunTurn, timing: Timing, *, predecessor_over: bool = True) -> None:
    """Bring a turn back from its job: queued if nothing is before it, else waiting.

    A turn whose own record is still there keeps its state; its session learns of it again.
    """
    known = draft.turns.get(job.turn_id)
    if known is not None and known.phase == STUB:
        return
    turn = known if known is not None else _from_job(draft, job)
    _expect(draft.record, job)
    turn.provisional = turn.provisional or turn.phase != TERMINAL
    if aside(job):
        _run_beside(draft, turn, timing)
    elif turn.phase == WAITING:
        _line_up(draft, turn, timing, predecessor_over=predecessor_over)
    else:
        _take_place(draft, turn)
    turn.job.session.CopyFrom(draft.record.session)
    draft.put_turn(turn)
    draft.touch()
    if known is None:
        accepted = TurnFrame(turn_id=job.turn_id, accepted=AcceptedFrame(turn=public_turn(turn)))
        draft.events.append((job.turn_id, EventId(turn.fence, 0), accepted))


def _from_job(draft: Draft, job: RunTurn) -> record.TurnRecord:
    return record.TurnRecord(
        phase=WAITING,
        job=job,
        fence=next_stamp(0, draft.now_ms),
        acceptance_confirmed=True,
    )


def _expect(session: record.SessionRecord, job: RunTurn) -> None:
    if job.turn_id not in session.unarchived_turn_ids:
        session.unarchived_turn_ids.append(job.turn_id)
        if not aside(job):
            session.last_turn_id = job.turn_id


def _run_beside(draft: Draft, turn: record.TurnRecord, timing: Timing) -> None:
    """Let a turn go on beside the conversation, from its start if nothing of it is left."""
    turn_id, session = turn.job.turn_id, draft.record
    if turn.phase in LIVE and turn_id not in session.side_turn_ids:
        session.side_turn_ids.append(turn_id)
        summaries.expect(draft, turn.job)
    if turn.phase == WAITING:
        turn.phase = QUEUED
        draft.due[turn_id] = draft.now_ms + timing.publish_grace
        draft.effects.append(RunJob(job=turn.job))


def _line_up(
    draft: Draft, turn: record.TurnRecord, timing: Timing, *, predecessor_over: bool
) -> None:
    turn_id, session = turn.job.turn_id, draft.record
    if turn_id in session.waiting_turn_ids:
        session.waiting_turn_ids.remove(turn_id)
    if predecessor_over and session.session.active_turn_id in ("", turn_id):
        turn.phase = QUEUED
        _take_place(draft, turn)
        draft.due[turn_id] = draft.now_ms + timing.publish_grace
        draft.effects.append(RunJob(job=turn.job))
        return
    session.waiting_turn_ids.insert(_place_in_line(draft, turn_id), turn_id)
    draft.due[turn_id] = draft.now_ms + timing.queue_check


def _place_in_line(draft: Draft, turn_id: str) -> int:
    """Return the place before the turn that this one was before, else the last one."""
    waiting = draft.record.waiting_turn_ids
    for place, other in enumerate(waiting):
        if other in draft.turns and draft.turns[other].job.predecessor_turn_id == turn_id:
            return place
    return len(waiting)


def _take_place(draft: Draft, turn: record.TurnRecord) -> None:
    """Give an active or ended turn its place: its messages in the window, the session busy."""
    session, answer = draft.record, turn.finished.answer
    _say_again(draft, turn.job)
    if turn.phase != TERMINAL:
        session.session.active_turn_id = turn.job.turn_id
    elif answer.message_id and not in_window(session, answer.message_id):
        draft.put_message(answer)


def _say_again(draft: Draft, job: RunTurn) -> None:
    """Put the message where it was said; one that was not said yet comes last."""
    if not job.message.position:
        say(draft, job)
    elif not in_window(draft.record, job.message.message_id):
        draft.put_message(job.message)


def rebuild(
    draft: Draft,
    job: RunTurn,
    row: GetArchivedTurnResponse,
    timing: Timing,
    *,
    predecessor_over: bool,
) -> None:
    """Bring back a turn that the live store lost, unless the archive knows its end."""
    if job.turn_id in draft.turns or row.session_deleted or row.HasField("finished"):
        return
    if draft.session is None:
        adopt(draft, job)
        draft.remember(SessionChanged(tenant=job.tenant, session=draft.record.session))
    if draft.record.tombstone:
        return
    revive(draft, job, timing, predecessor_over=predecessor_over)
    if not row.HasField("job"):
        # What was to tell the archive of the turn was lost with the store.
        draft.remember(TurnAccepted(job=job))
