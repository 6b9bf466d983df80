"""Records as the public API shows them. Pure."""

import zlib

from maieutic.archive.v1.archive_service_pb2 import GetArchivedTurnResponse
from maieutic.session.v1 import record_pb2 as record
from maieutic.v1 import turn_service_pb2 as pb
from services.runtime.turn_files import finished_files
from services.session.errors import BadCursor
from services.session.model import (
    CANCELLING,
    LEASED,
    PROVISIONAL,
    QUEUED,
    TERMINAL,
    TERMINAL_SEQ,
    WAITING,
    EventId,
    timestamp,
)

_STATES = {
    WAITING: pb.TURN_STATE_WAITING,
    QUEUED: pb.TURN_STATE_QUEUED,
    LEASED: pb.TURN_STATE_RUNNING,
    CANCELLING: pb.TURN_STATE_CANCELLING,
    # Its outcome is not decided before the archive has said so.
    PROVISIONAL: pb.TURN_STATE_RUNNING,
}


def public_turn(turn: record.TurnRecord, *, waiting_position: int = 0) -> pb.Turn:
    """Return a live turn as callers see it, at its place if it waits in line."""
    job = turn.job
    shown = pb.Turn(
        turn_id=job.turn_id,
        session_id=job.message.session_id,
        request_id=job.request_id,
        text=job.message.text,
        attempt=turn.attempt,
        # A worker had the job, so the broker had it; a turn that was handed back stays durable.
        durable=turn.job_confirmed or turn.start_ms > 0 or turn.acceptance_confirmed,
        create_time=job.create_time,
        waiting_position=waiting_position if turn.phase == WAITING else 0,
        kind=job.kind,
        parent_turn_id=job.parent_turn_id,
        agent=job.agent,
    )
    if turn.start_ms:
        shown.start_time.CopyFrom(timestamp(turn.start_ms))
    if turn.phase == TERMINAL:
        shown.state = turn.finished.outcome.state
        shown.outcome.CopyFrom(turn.finished.outcome)
        shown.finish_time.CopyFrom(turn.finished.outcome.finish_time)
    else:
        shown.state = _STATES[turn.phase]
    return shown


def archived_turn(row: GetArchivedTurnResponse) -> pb.Turn:
    """Return an archived turn as callers see it."""
    job, finished = row.job, row.finished
    shown = pb.Turn(
        turn_id=job.turn_id,
        session_id=job.message.session_id,
        request_id=job.request_id,
        state=pb.TURN_STATE_QUEUED,
        text=job.message.text,
        durable=True,
        create_time=job.create_time,
        kind=job.kind,
        parent_turn_id=job.parent_turn_id,
        agent=job.agent,
    )
    if row.HasField("finished"):
        outcome = finished.outcome
        shown.state, shown.attempt = outcome.state, outcome.attempts
        shown.outcome.CopyFrom(outcome)
        shown.finish_time.CopyFrom(outcome.finish_time)
        if finished.HasField("start_time"):
            shown.start_time.CopyFrom(finished.start_time)
        shown.archive_time.CopyFrom(row.archive_time)
    return shown


def cursor_of(turn_id: str, at: EventId) -> str:
    """Return the cursor of a frame. It names its turn, so that a foreign one is known as such."""
    return f"{at.fence}-{at.seq}-{_tag(turn_id):08x}"


def parse_cursor(turn_id: str, cursor: str) -> EventId | None:
    """Return the place after which to go on, None for the start; raises BadCursor."""
    if not cursor:
        return None
    parts = cursor.split("-")
    if len(parts) != 3 or parts[2] != f"{_tag(turn_id):08x}":  # noqa: PLR2004 - fence, seq, tag
        raise BadCursor("turn", "from the start")
    if not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts[:2]):  # noqa: PLR2004
        raise BadCursor("turn", "from the start")
    return EventId(int(parts[0]), int(parts[1]))


def _tag(turn_id: str) -> int:
    return zlib.crc32(turn_id.encode())


def terminal_frames(turn: pb.Turn) -> list[pb.TurnFrame]:
    """Return what stands for a log that is gone: the text as a snapshot, and the outcome."""
    last = EventId(turn.outcome.fence, TERMINAL_SEQ)
    snapshot = pb.TurnFrame(
        turn_id=turn.turn_id,
        cursor=cursor_of(turn.turn_id, EventId(last.fence, TERMINAL_SEQ - 1)),
        snapshot=_snapshot(turn),
    )
    outcome = pb.TurnFrame(
        turn_id=turn.turn_id, cursor=cursor_of(turn.turn_id, last), outcome=turn.outcome
    )
    return [snapshot, outcome]


def _snapshot(turn: pb.Turn) -> pb.TurnSnapshot:
    """Return what an ended turn leaves in front of a reader: its text, or its files."""
    if turn.kind != pb.TURN_KIND_CODE:
        return pb.TurnSnapshot(text=turn.outcome.text)
    files = finished_files(turn.outcome.findings.manifest, turn.outcome.artifacts)
    return pb.TurnSnapshot(files=files)


def committed_files(turn: record.TurnRecord) -> list[pb.TurnFile]:
    """Return the files that a code turn has finished so far."""
    steps = turn.finished_steps
    plans = (step.findings.manifest for step in steps if step.findings.HasField("manifest"))
    artifacts = (artifact for step in steps for artifact in step.artifacts)
    return finished_files(next(plans, pb.CodeManifest()), artifacts)
