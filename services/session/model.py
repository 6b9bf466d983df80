"""What a session and a turn are, and the draft in which a transaction decides.

Pure: no I/O, no framework, no clock. Every attempt of a transaction reads afresh, so a decision may
change the records of its draft in place: nobody else holds them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeAlias, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from maieutic.bus.v1.bus_pb2 import (
    RunTurn,
    SessionAnnotations,
    SessionChanged,
    SessionDeleted,
    TurnAccepted,
    TurnFinished,
)
from maieutic.session.v1 import record_pb2 as pb
from maieutic.session.v1.record_pb2 import Operation, SessionRecord, TurnRecord
from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER, Message
from maieutic.v1.session_service_pb2 import SessionFrame
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_INTERRUPT,
    BUSY_POLICY_ROLLBACK,
    TURN_STATE_COMPLETED,
    TURN_STATE_ROLLED_BACK,
    TurnFrame,
    TurnKind,
)

WINDOW_MESSAGES = 20
WINDOW_BYTES = 2 * 1024 * 1024
"""Of the window a worker is given no more."""
CLAIM_BYTES = 3_500_000
"""Of all that a worker is given with a claim: a message over gRPC has at most 4 MiB."""
TERMINAL_SEQ = 10**12
"""Sequence number of the terminal frame: higher than any that a worker reaches."""

LOG_FRAMES = 2_000
"""What a turn's log keeps at least; workers repeat the whole text more often than that."""
SESSION_LOG_FRAMES = 200
"""What a session's log keeps at least: some 25 questions with their analyses."""

NO_PHASE = pb.TURN_PHASE_UNSPECIFIED
WAITING = pb.TURN_PHASE_WAITING
QUEUED = pb.TURN_PHASE_QUEUED
LEASED = pb.TURN_PHASE_LEASED
CANCELLING = pb.TURN_PHASE_CANCELLING
TERMINAL = pb.TURN_PHASE_TERMINAL
PROVISIONAL = pb.TURN_PHASE_PROVISIONAL
STUB = pb.TURN_PHASE_STUB
LIVE = frozenset({WAITING, QUEUED, LEASED, CANCELLING})

IN_LINE = frozenset(
    {
        TurnKind.TURN_KIND_UNSPECIFIED,
        TurnKind.TURN_KIND_ASK,
        TurnKind.TURN_KIND_NEXT_QUESTION,
    }
)
"""Kinds of turns that take their place in the conversation, one at a time."""

R = TypeVar("R", SessionRecord, TurnRecord)

Fact: TypeAlias = SessionChanged | SessionDeleted | TurnAccepted


class EventId(NamedTuple):
    """The place of a frame in a turn's log. Ordered: a newer fence comes after all of an older."""

    fence: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The tenant and user that a call is for."""

    tenant: str
    user: str

    @property
    def key(self) -> str:
        """The owner of a list of sessions."""
        return f"{self.tenant}\x00{self.user}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The clock of unfinished work, in milliseconds."""

    lease: int = 10_000
    publish_grace: int = 2_000
    """After this an unconfirmed job is published again."""
    queue_check: int = 30_000
    """After this a confirmed job that nobody claimed is published again."""
    longest_backoff: int = 300_000
    """Most that is waited before what stays undone is tried again."""
    cancel_grace: int = 1_000
    analysis_budget: int = 300_000
    """How long work beside a conversation may run that begins by itself."""
    archive_grace: int = 5_000
    """After this an outcome that the archive has not confirmed is published again."""
    gather: int = 1000
    """States of a session that follow each other within this are told to the archive as one."""
    idle: int = 1_800_000
    """A session that is idle this long leaves for the archive."""
    stub: int = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob:
    """Publish the job after the commit."""

    job: RunTurn
    suspect: bool = False


Effect: TypeAlias = RunJob | TurnFinished


@dataclass(slots=True, kw_only=True)
class Draft:
    """One attempt of a transaction: what was read, and what shall be written in one MULTI."""

    session_id: str
    now_ms: int
    session: SessionRecord | None = None
    damaged: bool = False
    """Whether a part of the session could not be read before, and was put aside."""
    turns: dict[str, TurnRecord] = field(default_factory=dict)
    tails: Mapping[str, EventId] = field(default_factory=dict)
    """The last event of each turn's log, where there is one."""
    messages: dict[str, Message] = field(default_factory=dict)
    """Those of the window, if they were asked for."""
    from_archive: int = 0
    """How many of them the archive gave back in this attempt."""
    annotations: SessionAnnotations | None = None
    """The session's notes, bookmarks and findings, if they were asked for."""
    operation: Operation | None = None
    """What is known of the request whose marker was asked for."""

    session_changed: bool = False
    annotations_changed: bool = False
    turns_changed: set[str] = field(default_factory=set)
    turns_removed: set[str] = field(default_factory=set)
    messages_put: dict[str, Message] = field(default_factory=dict)
    messages_dropped: set[str] = field(default_factory=set)
    due: dict[str, int | None] = field(default_factory=dict)
    """Turn to the time of its next check; None takes it off the clock."""
    events: list[tuple[str, EventId, TurnFrame]] = field(default_factory=list)
    log_begun: bool = False
    happened: list[SessionFrame] = field(default_factory=list)
    """What the session's watchers are told, in its order."""
    out: list[Fact] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    carried_out: tuple[str, Operation] | None = None
    """The request that this draft carries out, and its marker."""

    def following(self, operation: Operation | None) -> Self:
        """Return the draft of another decision in the same commit: it finds what this one leaves.

        It has the session and the turns that were read, and *operation* as its marker.
        """
        return type(self)(
            session_id=self.session_id,
            now_ms=self.now_ms,
            session=None if self.session is None else _copied(self.session),
            turns={turn_id: _copied(turn) for turn_id, turn in self.turns.items()},
            operation=operation,
        )

    @property
    def writes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(
            self.session_changed
            or self.turns_changed
            or self.due
            or self.out
            or self.events
            or self.happened
            or self.carried_out
        )

    @property
    def record(self) -> SessionRecord:
        """The session's record, where the caller has made sure that there is one."""
        if self.session is None:
            message = f"session {self.session_id} is not in this draft"
            raise LookupError(message)
        return self.session

    @property
    def kept_annotations(self) -> SessionAnnotations:
        """The notes, bookmarks and findings, where the caller has asked for them."""
        if self.annotations is None:
            message = f"the annotations of session {self.session_id} are not in this draft"
            raise LookupError(message)
        return self.annotations

    def annotate(self) -> None:
        """Write the notes, bookmarks and findings under the session's next revision."""
        self.touch()
        revision = self.record.session.revision
        self.kept_annotations.revision = self.record.annotations_revision = revision
        self.annotations_changed = True

    def put_turn(self, turn: TurnRecord) -> None:
        """Write the turn."""
        self.turns[turn.job.turn_id] = turn
        self.turns_changed.add(turn.job.turn_id)

    def put_message(self, message: Message) -> None:
        """Write the message and append it to the window."""
        session = self.record
        self.messages[message.message_id] = message
        self.messages_put[message.message_id] = message
        session.window.add(
            message_id=message.message_id, turn_id=message.turn_id, size=len(message.text)
        )
        session.next_position = max(session.next_position, message.position + 1)
        # Positions have no gaps; and a message that comes back from the archive counts once.
        session.session.message_count = session.next_position - 1

    def withdraw_messages(self, turn_id: str) -> None:
        """Take the turn's messages out of the window, as if nobody had said them."""
        session = self.record
        withdrawn = [entry for entry in session.window if entry.turn_id == turn_id]
        if withdrawn and session.window[-1].turn_id == turn_id:
            # Nothing was said since: what is said next takes their positions.
            session.next_position -= len(withdrawn)
            session.session.message_count = session.next_position - 1
        for entry in withdrawn:
            session.window.remove(entry)
            self.messages.pop(entry.message_id, None)
            self.messages_put.pop(entry.message_id, None)
            self.messages_dropped.add(entry.message_id)

    def log(self, frame: SessionFrame) -> None:
        """Tell those who watch the session, if anybody ever did."""
        if self.record.logged:
            self.happened.append(frame)

    def begin_log(self) -> None:
        """Keep a log from now on, one of the session's parts: somebody watches."""
        self.record.logged = self.session_changed = self.log_begun = True

    def remember(self, fact: Fact) -> None:
        """Tell the archive, from the shard's own stream and in its order."""
        self.out.append(fact)

    def tell_session(self) -> None:
        """Tell the archive of the session as it is now."""
        # It cannot expire before the archive knows this state.
        self.record.session.ClearField("expire_time")
        changed = SessionChanged(tenant=self.record.tenant, session=self.record.session)
        if self.annotations_changed:
            changed.annotations.CopyFrom(self.kept_annotations)
        self.remember(changed)

    def touch(self) -> None:
        """Give the session its next revision; it was used now."""
        session = self.record.session
        session.revision = next_stamp(session.revision, self.now_ms)
        session.last_used_time.CopyFrom(timestamp(self.now_ms))
        self.session_changed = True

    def next_fence(self, turn: TurnRecord) -> int:
        """Move the turn's fence, so that every older writer is refused."""
        turn.fence = next_stamp(turn.fence, self.now_ms)
        return turn.fence


def _copied(record: R) -> R:
    copied = type(record)()
    copied.CopyFrom(record)
    return copied


def next_stamp(previous: int, now_ms: int) -> int:
    """Return a number that never repeats, not even after a failover or a restore."""
    return max(previous + 1, now_ms)


def timestamp(ms: int) -> Timestamp:
    """Return *ms* since the epoch as a Timestamp."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def milliseconds(time: Timestamp) -> int:
    """Return a Timestamp as milliseconds since the epoch."""
    return time.seconds * 1000 + time.nanos // 1_000_000


def user_message_id(turn_id: str) -> str:
    """Return the id of the message that began the turn."""
    return f"{turn_id}.u"


def answer_id(turn_id: str) -> str:
    """Return the id of the message that answered the turn."""
    return f"{turn_id}.a"


def user_message(turn_id: str, session_id: str, text: str) -> Message:
    """Make the message that begins a turn; its place and time are given when it is accepted."""
    return Message(
        message_id=user_message_id(turn_id),
        session_id=session_id,
        turn_id=turn_id,
        author=AUTHOR_USER,
        text=text,
    )


def agent_message(finished: TurnFinished, *, position: int) -> Message:
    """Make the message that answers a turn."""
    outcome = finished.outcome
    return Message(
        message_id=answer_id(finished.job.turn_id),
        session_id=finished.job.message.session_id,
        turn_id=finished.job.turn_id,
        author=AUTHOR_AGENT,
        text=outcome.text,
        create_time=outcome.finish_time,
        position=position,
        citations=outcome.citations,
        partial=outcome.state != TURN_STATE_COMPLETED,
    )


def in_window(session: SessionRecord, message_id: str) -> bool:
    """Whether the window has the message."""
    return any(entry.message_id == message_id for entry in session.window)


def say(draft: Draft, job: RunTurn) -> None:
    """Give the user's message the next place in the conversation, unless it has one there.

    A turn in which the user says nothing has no message.
    """
    if job.message.text and not in_window(draft.record, job.message.message_id):
        job.message.position = draft.record.next_position
        draft.put_message(job.message)


def aside(job: RunTurn) -> bool:
    """Whether the turn runs beside the conversation: nothing waits for it, nor it for anything."""
    return job.kind not in IN_LINE


def takes_over(job: RunTurn) -> bool:
    """Whether the turn stops the one that runs and starts before those that wait."""
    return job.busy_policy in (BUSY_POLICY_INTERRUPT, BUSY_POLICY_ROLLBACK)


def rolled_back(turn: TurnRecord) -> bool:
    """Whether the turn has ended as if it had never been asked."""
    return turn.finished.outcome.state == TURN_STATE_ROLLED_BACK


def place_in_line(session: SessionRecord, turn_id: str) -> int:
    """Return the turn's place among those that wait, from 1; 0 if it does not wait."""
    waiting = session.waiting_turn_ids
    return list(waiting).index(turn_id) + 1 if turn_id in waiting else 0


def in_line(session: SessionRecord, turn_id: str) -> bool:
    """Whether the turn runs in the session, waits in it, or runs beside it."""
    return turn_id in (
        session.session.active_turn_id,
        *session.waiting_turn_ids,
        *session.side_turn_ids,
    )


def trim(draft: Draft, *, keep: int = WINDOW_MESSAGES) -> None:
    """Drop the oldest messages over the window's length; only what is archived may go."""
    window = draft.record.window
    surplus = len(window) - keep
    for entry in list(window)[: max(0, surplus)]:
        if not entry.archived:
            return
        draft.messages_dropped.add(entry.message_id)
        window.remove(entry)


def settled(session: SessionRecord) -> bool:
    """Whether nothing of the session is live and all of it is archived: it may expire."""
    return (
        not session.session.active_turn_id
        and not session.waiting_turn_ids
        and not session.unarchived_turn_ids
        and session.archived_revision >= session.session.revision
        and session.archived_annotations_revision >= session.annotations_revision
    )


def window_messages(draft: Draft) -> Sequence[Message]:
    """Return the window's messages, oldest first."""
    return [draft.messages[entry.message_id] for entry in draft.record.window]


def latest_messages(draft: Draft, room: int) -> Sequence[Message]:
    """Return the window's last messages, oldest first: at least one, and what fits in *room*."""
    latest: list[Message] = []
    size = 0
    for message in reversed(window_messages(draft)):
        size += message.ByteSize()
        if latest and size > min(room, WINDOW_BYTES):
            break
        latest.append(message)
    return latest[::-1]


def window_position(draft: Draft) -> int:
    """Return the position from which on the window is all there is.

    What the archive has there besides was rolled back, and it does not know yet.
    """
    positions = (message.position for message in window_messages(draft))
    return min(positions, default=draft.record.next_position)
