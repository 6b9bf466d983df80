"""What the session service needs from its store."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self, TypeVar

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import SessionFrame
from maieutic.v1.turn_service_pb2 import TurnFrame
from services.session.model import Draft, EventId, Timing

T = TypeVar("T")


class LeftoverKind(StrEnum):
    """What is left behind."""

    INDEX_ENTRY = "index_entry"
    """On its owner's list, and not here. What the archive has is listed from there."""
    SESSION_PART = "session_part"
    """Messages, notes or a log without a record, which would never expire."""
    TURN = "turn"
    """Without expiry, and not on the clock."""
    TURN_LOG = "turn_log"
    """Without expiry, and without its turn."""
    LIVE_ENTRY = "live_entry"
    """Counted as a live session, and not here."""
    DUE_MEMBER = "due_member"
    """On the clock, and not here."""
    QUARANTINED = "quarantined"
    """Put aside, and would never expire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something in the store that nothing leads to."""

    kind: LeftoverKind
    key: str
    member: str
    """The session or turn that it is of; of what is quarantined the time in ms."""
    score: float = 0.0
    """Of an entry of a list, in ms."""

    def __str__(self) -> str:
        return f"{self.kind.value} {self.member} in {self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkPlace:
    """How far the walk over all keys has come."""

    node: int
    cursor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """One step of the walk."""

    keys: Sequence[str]
    place: WalkPlace
    """Where the next step begins."""
    round_over: bool
    """Whether these are the last keys of all."""
    now_ms: int
    last_round_ms: int
    """When the round before was over; 0 if none was."""


class KeySpace(Protocol):
    """All keys of the store, for the search for what was left behind.

    The replicas share one walk. Every method may raise StoreUnavailable.
    """

    async def take_turn(self, hold_ms: int) -> bool:
        """Whether this process may take the next step; for so long no other one may."""
        ...

    async def next_keys(self, count: int) -> Walked:
        """Return about *count* keys; the same again until `walked`."""
        ...

    async def walked(self, step: Walked) -> None:
        """Let the walk go on behind the step."""
        ...

    async def leftovers(self, step: Walked, grace_ms: int) -> list[Leftover]:
        """Return what looks left behind, not counting entries younger than *grace_ms*."""
        ...

    async def remove(self, leftover: Leftover, grace_ms: int, timing: Timing) -> bool:
        """Remove it, or arm its expiry, or put it back on the clock; False if it is in use."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a transaction watches and reads, beside the session's record."""

    turns: Sequence[str] = ()
    tails: bool = False
    """Also the last event of each turn's log."""
    window: bool = False
    """Also the messages of the window."""
    annotations: bool = False
    """Also the session's notes, bookmarks and findings."""
    running: bool = False
    """Also the turns that run, in the conversation and beside it. Those that wait are read in any
    case."""
    operation: str = ""
    """Also the marker of this request id."""

    @classmethod
    def of_job(cls, job: RunTurn, *, annotations: bool = False) -> Self:
        """Read the job's turn and the one before it, on which its place depends."""
        return cls(turns=_with_predecessor(job), annotations=annotations)

    @classmethod
    def of_claim(cls, job: RunTurn) -> Self:
        """Read what of_job does, all that an agent is given, and if the turn's log is there."""
        return cls(turns=_with_predecessor(job), tails=True, window=True, annotations=True)


def _with_predecessor(job: RunTurn) -> list[str]:
    return [turn for turn in (job.turn_id, job.predecessor_turn_id) if turn]


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Frames for a turn's log, the first at `first`."""

    turn_id: str
    first: EventId
    frames: Sequence[TurnFrame]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """How near the store is to its limits."""

    memory_share: float
    """Of maxmemory, 0 to 1; 0 if there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What the store holds. Sessions that it lost by itself may be counted for a while."""

    sessions: int
    active: int
    """Sessions in which a turn runs or waits."""
    quarantined: int
    """Records that could not be read."""
    overdue_ms: int
    """How long the check that should have come first has been due; 0 if none is."""
    session_bytes: Sequence[int]
    """Memory that some sessions take, chosen at random: records, windows, annotations, logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The connections that are lent to one call each."""

    lent: int
    waiting: int
    """Calls that wait for one."""


class Damage(StrEnum):
    """Why a record cannot be read; part of stored names."""

    WRONG_TYPE = "wrong_type"
    VERSION = "version"
    CHECKSUM = "checksum"
    UNPARSABLE = "unparsable"


@dataclass(frozen=True, slots=True, kw_only=True)
class PutAside:
    """A record in quarantine."""

    record_id: str
    """Its name there, and nobody else's."""
    key: str
    """What it was: the key that it had, without the shard."""
    damage: Damage
    at_ms: int
    """When it was put aside."""
    size: int
    """Memory that it takes, in bytes."""


QUARANTINE_MS = 30 * 86_400_000
"""How long a record is kept in quarantine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLook:
    """A session and a part of its log, as they stood at one moment."""

    record: SessionRecord | None
    """None if the session is not here."""
    entries: Sequence[tuple[EventId, SessionFrame | None]]
    """None stands for a frame that cannot be read."""


class AppendOutcome:
    """What became of an append: now or before, too late, or nowhere to put it."""

    APPLIED = "applied"
    FENCED = "fenced"
    MISSING = "missing"


class SessionStore(Protocol):
    """Live sessions and turns.

    Every method may raise StoreUnavailable. Records that cannot be read are put aside; the caller
    then finds nothing.
    """

    async def transact(
        self,
        session_id: str,
        decide: Callable[[Draft], T],
        reads: Reads = ...,
        prepare: Callable[[Draft], Awaitable[None]] | None = None,
    ) -> tuple[T, Draft]:
        """Read, decide and write as one atomic step, again after every conflict.

        *prepare* runs between the reads and the decision; what it learns is as good as read in the
        same step. Both may run several times, and in the context of another caller whose change of
        the session is written in the same step. What the decision raises is raised, and nothing of
        it is written. What cannot be read is put aside, which the next draft says.
        Raises ConflictExhausted when the caller's deadline passes first.
        """
        ...

    async def session(self, session_id: str) -> SessionRecord | None:
        """Return a session's record as it stands."""
        ...

    async def sessions(self, session_ids: Sequence[str]) -> list[SessionRecord | None]:
        """Return several records, each as it stands."""
        ...

    async def turn(self, turn_id: str) -> TurnRecord | None:
        """Return a turn as it stands."""
        ...

    async def turns(self, turn_ids: Sequence[str]) -> list[TurnRecord | None]:
        """Return several turns, each as it stands."""
        ...

    async def window(self, session_id: str) -> list[Message]:
        """Return the messages of the window, oldest first."""
        ...

    async def session_and_time_left(self, session_id: str) -> tuple[SessionRecord | None, int]:
        """Return a session's record and what `time_left` would, read together."""
        ...

    async def keep_alive(self, session_id: str, left: int | None = None) -> int:
        """Put the session's expiry off, because it was read; returns what `time_left` would.

        *left* is what that said just now, if it was asked.
        """
        ...

    async def time_left(self, session_ids: Sequence[str]) -> list[int]:
        """Return in how many ms each session expires; 0 if it does not, or is not here."""
        ...

    async def append(self, appends: Sequence[Append]) -> list[str]:
        """Append to logs that exist, each all or nothing; returns an `AppendOutcome` for each.

        A log keeps at least its last `LOG_FRAMES`; older ones go.
        """
        ...

    async def events(
        self, turn_id: str, after: EventId | None, limit: int
    ) -> list[tuple[EventId, TurnFrame]] | None:
        """Return the log's next frames; None if there is no log."""
        ...

    async def look_at_session(
        self, session_id: str, since: EventId | None, limit: int
    ) -> SessionLook:
        """Return a session, and at most *limit* entries of its log from *since* on.

        The first entry is the one at *since*, if it is still there; without it, the log's last one
        is all that is returned.
        """
        ...

    async def list_add(self, owner: str, session_id: str, created_ms: int) -> None:
        """Put a session on its owner's list, at its time of creation."""
        ...

    async def list_remove(self, owner: str, session_ids: Sequence[str]) -> None:
        """Take sessions off their owner's list."""
        ...

    async def list_page(
        self, owner: str, before: tuple[int, str] | None, limit: int
    ) -> list[tuple[int, str]]:
        """Return (creation in ms, session id), newest first, those before a place."""
        ...

    async def list_length(self, owner: str) -> int:
        """Return how many sessions are on an owner's list."""
        ...

    async def take_overdue(self, hold_ms: int, limit: int) -> list[str]:
        """Return turns whose check is due and put each off, so that no other replica takes it."""
        ...

    async def forget_due(self, turn_id: str) -> None:
        """Take a turn off the clock, if it is not here any more."""
        ...

    async def out_shards(self) -> list[int]:
        """Return the shards whose stream of facts is not empty."""
        ...

    async def out_read(self, shard: int, limit: int) -> list[tuple[bytes, str, bytes]]:
        """Return (entry id, routing key, body) of a shard's facts, oldest first."""
        ...

    async def out_drop(self, shard: int, entries: Sequence[bytes]) -> None:
        """Drop facts that the broker has confirmed."""
        ...

    async def content_id(self) -> str:
        """Return a name that the store keeps until all of its content is lost."""
        ...

    async def pressure(self) -> Pressure:
        """Return how near the store is to its limits."""
        ...

    async def census(self) -> Census:
        """Return what the store holds, without looking at everything in it."""
        ...

    def pool(self) -> Pool:
        """Return how many of this process's connections to the store are lent now."""
        ...


class Quarantine(Protocol):
    """The records that could not be read. Every method may raise StoreUnavailable."""

    async def put_aside(
        self, before: tuple[int, str] | None, limit: int
    ) -> tuple[list[PutAside], tuple[int, str] | None]:
        """Return records, the latest first, and the place of the last if there are more.

        They are those before a place, which is when in ms, and the record id; at most *limit*.
        """
        ...

    async def find_put_aside(self, record_id: str) -> PutAside | None:
        """Return a record, None if there is no such one, or no longer."""
        ...

    async def content_put_aside(self, record_id: str, limit: int) -> tuple[str, bytes]:
        """Return a record's type of value, and at most *limit* bytes of it.

        They are a string's own bytes, or those that the store makes of another type of value,
        none if it is too large for that.
        """
        ...

    async def drop_put_aside(self, record_id: str, request_id: str) -> bool:
        """Remove a record, if it is there.

        False, and nothing is removed, if the request id was given for another record before.
        """
        ...
