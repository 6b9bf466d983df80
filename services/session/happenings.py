"""What a session's stream says: of turns, without their text, and of the session. Pure."""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

from maieutic.session.v1.record_pb2 import FinishedStep, SessionRecord, TurnRecord
from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.turn_service_pb2 import Turn, TurnOutcome
from services.session.errors import BadCursor
from services.session.model import EventId, place_in_line
from services.session.views import public_turn

MOST_BYTES = 16 * 1024
"""Of one frame: the log keeps a few hundred of them."""
_NUMBERS = 3
_DIGITS = 15


def turn_accepted(shown: Turn) -> pb.SessionFrame:
    """Say that a turn was begun, as it is *shown*."""
    return pb.SessionFrame(
        turn_id=shown.turn_id,
        kind=shown.kind,
        parent_turn_id=shown.parent_turn_id,
        turn_accepted=pb.SessionTurnAccepted(turn=without_text(shown)),
    )


def without_text(shown: Turn) -> Turn:
    """Return the turn as a session's stream shows it."""
    turn = Turn()
    turn.CopyFrom(shown)
    turn.ClearField("text")
    return turn


def turn_started(turn: TurnRecord) -> pb.SessionFrame:
    """Say that an attempt begins."""
    frame = _about(turn)
    frame.turn_started.attempt = turn.attempt
    return frame


def step_finished(turn: TurnRecord, step: FinishedStep) -> pb.SessionFrame:
    """Say what a step has found and made."""
    frame = _about(turn)
    frame.turn_step_finished.step = step.step
    frame.turn_step_finished.findings.CopyFrom(step.findings)
    frame.turn_step_finished.artifacts.extend(step.artifacts)
    if frame.ByteSize() > MOST_BYTES:
        frame.turn_step_finished.ClearField("findings")
        frame.turn_step_finished.ClearField("artifacts")
        frame.turn_step_finished.shortened = True
    return frame


def turn_ended(turn: TurnRecord) -> pb.SessionFrame:
    """Say how the turn has ended."""
    frame, outcome = _about(turn), turn.finished.outcome
    ended = frame.turn_ended
    ended.outcome.CopyFrom(outcome)
    ended.outcome.ClearField("text")
    ended.outcome.ClearField("citations")
    if frame.ByteSize() > MOST_BYTES:
        ended.shortened = True
        ended.outcome.CopyFrom(
            TurnOutcome(
                state=outcome.state,
                reason=outcome.reason,
                attempts=outcome.attempts,
                finish_time=outcome.finish_time,
                fence=outcome.fence,
            )
        )
    return frame


def current(record: SessionRecord) -> pb.CurrentSession:
    """Return the session as its stream shows it."""
    shown = pb.CurrentSession(
        session=record.session, annotations_revision=record.annotations_revision
    )
    # Reading puts it off, which nobody is told of.
    shown.session.ClearField("expire_time")
    return shown


def snapshot(record: SessionRecord, turns: Iterable[TurnRecord]) -> pb.SessionSnapshot:
    """Return how the session stands, with the turns that have not ended."""
    shown = (
        public_turn(turn, waiting_position=place_in_line(record, turn.job.turn_id))
        for turn in turns
    )
    return pb.SessionSnapshot(current=current(record), turns=[without_text(turn) for turn in shown])


class Place(NamedTuple):
    """How far a watcher has been told."""

    entry: EventId
    """The last entry of the log."""
    revision: int
    """The last state of the session."""

    def cursor(self, session_id: str) -> str:
        """Return it as a cursor, which names its session."""
        return f"{self.entry.fence}-{self.entry.seq}-{self.revision}-{_tag(session_id)}"

    @classmethod
    def parse(cls, session_id: str, cursor: str) -> "Place | None":
        """Return the place that a cursor names, None for an empty one; raises BadCursor."""
        if not cursor:
            return None
        *numbers, tag = cursor.split("-")
        readable = all(
            part.isascii() and part.isdigit() and len(part) <= _DIGITS for part in numbers
        )
        if len(numbers) != _NUMBERS or tag != _tag(session_id) or not readable:
            raise BadCursor("session", "from now on")
        fence, seq, revision = map(int, numbers)
        return cls(EventId(fence, seq), revision)


def _tag(session_id: str) -> str:
    return f"{zlib.crc32(session_id.encode()):08x}"


def _about(turn: TurnRecord) -> pb.SessionFrame:
    job = turn.job
    return pb.SessionFrame(turn_id=job.turn_id, kind=job.kind, parent_turn_id=job.parent_turn_id)
