"""What the archive needs from a database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionAnnotations, TurnFinished
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import (
    SESSION_ORDER_NEWEST_FIRST,
    Session,
    SessionOrder,
    SessionStatistics,
)
from maieutic.v1.turn_service_pb2 import Findings
from services.persistence.artifact_ports import Artifacts
from services.persistence.dead_letter_ports import DeadLetters
from services.persistence.document_ports import DocumentRegistry, DocumentUpkeep, DocumentWork
from services.persistence.index_ports import IndexRegistry
from services.persistence.model import Applied, Fact, Place
from services.persistence.usage_ports import UsageAccounts

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """A part of a list."""

    items: Sequence[Item]
    cut: bool = False
    """Whether more would have fitted the limit, but not the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that brings a session back into the live store."""

    tenant: str = ""
    session: Session | None = None
    """None if the archive does not know the session; of a deleted one no more than its ids."""
    deleted: bool = False
    window: tuple[Message, ...] = ()
    """The last messages, oldest first."""
    unfinished: tuple[RunTurn, ...] = ()
    """In acceptance order."""
    last_position: int = 0
    last_turn_id: str = ""
    annotations: SessionAnnotations | None = None
    """Its notes and bookmarks; None if it never had some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedTurn:
    """A turn's row."""

    job: RunTurn | None = None
    """None if the archive does not know the turn."""
    finished: TurnFinished | None = None
    archive_time: datetime | None = None
    session_deleted: bool = False


class Facts(Protocol):
    """What happened, written once.

    Every method raises ArchiveUnavailable while the database is away.
    """

    async def apply(self, batch: Sequence[Fact]) -> Applied:
        """Commit the batch as a whole; applying a fact again changes nothing.

        After ArchiveUnavailable it may or may not be committed: apply it again. Raises Refused,
        with nothing written, if the database refuses the data of any fact.
        """
        ...

    async def unfinished_turns(
        self, *, older_than: float, lease: float, limit: int
    ) -> Sequence[RunTurn]:
        """Return the jobs of up to *limit* sessions with a turn accepted *older_than* seconds ago.

        All unfinished turns of such a session are returned, in acceptance order, one session
        after the other. A session is handed to one caller only within *lease* seconds.
        """
        ...


class Reads(Protocol):
    """What was archived. Every method raises ArchiveUnavailable while the database is away."""

    async def snapshot(self, session_id: str, *, window: int) -> Snapshot:
        """Return one consistent state of a session, with its last *window* messages."""
        ...

    async def list_sessions(
        self,
        tenant: str,
        user_id: str,
        *,
        after: Place | None,
        limit: int,
        most_bytes: int,
        order: SessionOrder.ValueType = SESSION_ORDER_NEWEST_FIRST,
    ) -> Page[Session]:
        """Return a user's sessions in the order: those that fit, at least one."""
        ...

    async def count_sessions(self, tenant: str, user_id: str) -> int:
        """Return how many sessions a user has."""
        ...

    async def list_messages(
        self,
        session_id: str,
        *,
        beyond: int,
        limit: int,
        most_bytes: int,
        oldest_first: bool = False,
    ) -> Page[Message]:
        """Return a session's messages with positions below *beyond* (0: all), newest first.

        Or those above it, oldest first. Those that fit, at least one. Two outcomes that a loss of
        the live store drove apart may share a position; then more may come, so that a page never
        ends between them.
        """
        ...

    async def get_message(self, session_id: str, message_id: str) -> Message | None:
        """Return a message of a session; None if it has none of that id."""
        ...

    async def statistics(
        self, session_id: str, except_turn_ids: Sequence[str]
    ) -> SessionStatistics:
        """Return what a session's turns consumed, without messages and documents."""
        ...

    async def get_turn(self, turn_id: str, session_id: str) -> ArchivedTurn:
        """Return a turn; its session's id (may be empty) tells a deleted session."""
        ...


class Branches(Protocol):
    """Makes branches. Raises ArchiveUnavailable while the database is away."""

    async def create_branch(
        self,
        tenant: str,
        branch: Session,
        window: Sequence[Message],
        window_position: int,
        findings: Findings,
    ) -> bool:
        """Store a branch with its parent's messages up to its point, in one step.

        *window* are the parent's last messages, some of which may not be here yet; from
        *window_position* on they are all there is. Of the parent's *findings* the branch has those
        of its messages. Returns False, and does nothing, if the branch
        is here. Raises SessionNotFound for a deleted parent, and MessageNotFound.
        """
        ...


class Archive(
    Facts,
    Reads,
    Branches,
    DocumentRegistry,
    DocumentWork,
    DocumentUpkeep,
    IndexRegistry,
    DeadLetters,
    Artifacts,
    UsageAccounts,
    Protocol,
):
    """The whole database."""

    async def check(self) -> None:
        """Return if the database answers; raises ArchiveUnavailable."""
        ...
