"""What the archive's statements run on: PostgreSQL, or SQLite behind the same words.

Every statement is written once, as PostgreSQL's; `sqlite.py` lists the few places where SQLite
spells them otherwise.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Protocol

from opentelemetry.trace import Span, SpanKind

from services.persistence.errors import ArchiveUnavailable, Refused
from services.runtime import names, telemetry


class Row(Protocol):
    """A result row."""

    def __getitem__(self, column: str, /) -> Any: ...


class Connection(Protocol):
    """One transaction on one connection."""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Row]:
        """Run a statement and return its rows."""
        ...

    async def write(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each tuple of arguments, in order; none is fine."""
        ...


class Database(Protocol):
    """A database with the archive's tables.

    A transaction commits at the end of its block and is rolled back by an exception. Both raise
    ArchiveUnavailable, and `writing` also Refused, whatever the database's own errors are.
    """

    def reading(self) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction that sees one state of the database and changes nothing."""
        ...

    def adding_up(self) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction like `reading`, for statements over a great many rows."""
        ...

    def writing(self) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction that sees what others have committed, statement by statement."""
        ...


def transaction_span(system: str, *, readonly: bool) -> AbstractContextManager[Span]:
    """Return the span of a transaction; what a caller raises inside for itself is no failure."""
    operation = "read" if readonly else "write"
    return telemetry.span(
        names.ARCHIVE_TRANSACTION,
        kind=SpanKind.CLIENT,
        attributes={names.DB_SYSTEM: system, names.DB_OPERATION: operation},
        failures=(ArchiveUnavailable, Refused),
    )


def moment(value: datetime | str) -> datetime:
    """Return a column's time in UTC: PostgreSQL has times, SQLite has text."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.astimezone(UTC)
