"""The archive in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from services.persistence.adapters.sql import Row, transaction_span
from services.persistence.errors import ArchiveUnavailable, Refused

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

DATA_ERROR_CLASSES = ("22", "23", "54")
"""SQLSTATE classes: data exception, integrity constraint violation, program limit exceeded."""

CLOSE_SECONDS = 2.0

# Groups are fewer than PostgreSQL expects, for which it would compile for a second.
FOR_MANY_ROWS = "SET LOCAL jit = off"


class PostgresConnection:
    """One transaction; see `sql.Connection`."""

    def __init__(self, connection: "PoolConnectionProxy[Any]") -> None:
        self._connection = connection

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Row]:
        """Run a statement and return its rows."""
        rows: Sequence[Row] = await self._connection.fetch(statement, *arguments)
        return rows

    async def write(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each row; all of them go out in one round trip."""
        if arguments := list(rows):
            await self._connection.executemany(statement, arguments)


class PostgresDatabase:
    """A pool of connections; see `sql.Database`."""

    def __init__(self, pool: "asyncpg.Pool[Any]", *, acquire_timeout: float) -> None:
        self._pool = pool
        self._acquire_timeout = acquire_timeout

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[PostgresConnection]:
        """Open a transaction on one snapshot of the database."""
        async with self._transaction(isolation="repeatable_read", readonly=True) as connection:
            yield connection

    @asynccontextmanager
    async def adding_up(self) -> AsyncIterator[PostgresConnection]:
        """Open a transaction on one snapshot of the database, for statements over many rows."""
        async with self.reading() as connection:
            await connection.fetch(FOR_MANY_ROWS)
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[PostgresConnection]:
        """Open a transaction in which each statement sees what is committed."""
        async with self._transaction(isolation="read_committed", readonly=False) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(
        self, *, isolation: str, readonly: bool
    ) -> AsyncIterator[PostgresConnection]:
        with transaction_span("postgresql", readonly=readonly), translated_errors():
            async with (
                self._pool.acquire(timeout=self._acquire_timeout) as connection,
                connection.transaction(isolation=isolation, readonly=readonly),
            ):
                yield PostgresConnection(connection)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """How PostgreSQL is used."""

    size: int = 8
    """Connections held at most."""

    timeout: float = 10.0
    """Seconds that a statement, or the wait for a free connection, may take."""


@asynccontextmanager
async def postgres_database(url: str, options: PoolOptions) -> AsyncIterator[PostgresDatabase]:
    """Open a pool on a postgresql:// URL; raises ArchiveUnavailable if nothing answers there."""
    with translated_errors():
        pool = await asyncpg.create_pool(
            url,
            # The pool would log a traceback every two seconds of an outage to keep a least number.
            min_size=0,
            max_size=options.size,
            timeout=options.timeout,
            command_timeout=options.timeout,
            server_settings={"application_name": "maieutic-persistence"},
        )
    try:
        with translated_errors():
            async with pool.acquire(timeout=options.timeout):
                pass  # somebody answers
        yield PostgresDatabase(pool, acquire_timeout=options.timeout)
    finally:
        await _closed(pool)


async def _closed(pool: "asyncpg.Pool[Any]") -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        # The server is away, or a statement hangs: nothing of it is needed any more.
        pool.terminate()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn PostgreSQL's and the driver's errors into the archive's.

    Only what the data itself causes is Refused. Anything else may pass, and is Unavailable: a
    result must rather wait than be thrown away.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "")[:2] in DATA_ERROR_CLASSES:
            raise Refused(_problem(error)) from error
        raise ArchiveUnavailable from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        # InternalClientError is what a connection says whose server died in the middle; the pool
        # drops it then.
        raise ArchiveUnavailable from error


def _problem(error: asyncpg.PostgresError) -> str:
    """Say what is wrong by names alone: PostgreSQL's own text quotes the row."""
    names = (error.sqlstate, error.table_name, error.column_name, error.constraint_name)
    return " ".join([type(error).__name__, *(name for name in names if name)])
