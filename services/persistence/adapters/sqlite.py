"""The archive in one SQLite file."""

import asyncio
import json
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import aiosqlite

from services.persistence.adapters.sql import Row, transaction_span
from services.persistence.errors import ArchiveUnavailable, Refused

NOW = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'"
SPELLINGS = MappingProxyType(
    {
        r"now\(\) - make_interval\(secs => \$(\d+)\)": rf"{NOW}, -?\1 || ' seconds')",
        r"now\(\) \+ make_interval\(secs => \$(\d+)\)": rf"{NOW}, ?\1 || ' seconds')",
        r"now\(\)": f"{NOW})",
        r"\bstrpos\(": "instr(",
        r"date_trunc\('day', (\w+) AT TIME ZONE 'UTC'\)": r"substr(\1, 1, 10)",
        r"to_char\((\w+), 'YYYY-MM-DD'\)": r"\1",
        # It knows no other order.
        r' COLLATE "C"': "",
        r"= ANY\(\$(\d+)\)": r"IN (SELECT value FROM json_each(?\1))",
        # A writer has the whole database for itself.
        r" FOR (?:UPDATE|SHARE)\b": "",
        r"\$(\d+)": r"?\1",
    }
)
"""Where SQLite spells a statement otherwise than PostgreSQL, in the order of replacement."""

BUSY_SECONDS = 10.0


class SqliteConnection:
    """One transaction; see `sql.Connection`."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Row]:
        """Run a statement and return its rows."""
        try:
            rows = await self._connection.execute_fetchall(spelled(statement), _stored(arguments))
        except asyncio.CancelledError:
            # Nobody waits for the rest, and others wait for the connection.
            await self._connection.interrupt()
            raise
        return list(rows)

    async def write(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each row."""
        if arguments := [_stored(row) for row in rows]:
            await self._connection.executemany(spelled(statement), arguments)


class SqliteDatabase:
    """One connection that writes and one that reads; see `sql.Database`."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        # A transaction belongs to a connection, so the tasks of this process take turns.
        self._writer, self._writing = writer, asyncio.Lock()
        self._reader, self._reading = reader, asyncio.Lock()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[SqliteConnection]:
        """Open a transaction on one snapshot of the database."""
        with transaction_span("sqlite", readonly=True):
            async with self._reading, _transaction(self._reader, "BEGIN"):
                yield SqliteConnection(self._reader)

    def adding_up(self) -> AbstractAsyncContextManager[SqliteConnection]:
        """Open a transaction on one snapshot of the database."""
        return self.reading()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[SqliteConnection]:
        """Open the one transaction that may write."""
        with transaction_span("sqlite", readonly=False):
            async with self._writing, _transaction(self._writer, "BEGIN IMMEDIATE"):
                yield SqliteConnection(self._writer)


@asynccontextmanager
async def sqlite_database(url: str) -> AsyncIterator[SqliteDatabase]:
    """Open the file of a sqlite:///path URL; raises ArchiveUnavailable if that cannot be."""
    path = sqlite_path(url)
    # At its debug level the driver logs the arguments of statements: what users have said.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    async with _connected(path) as writer, _connected(path) as reader:
        yield SqliteDatabase(writer, reader)


def sqlite_path(url: str) -> Path:
    """Return the file that a sqlite:///path URL names; what follows the host is absolute."""
    return Path(unquote(urlsplit(url).path))


def sqlite_url(path: Path) -> str:
    """Return the URL of a file."""
    return f"sqlite://{quote(str(path.absolute()))}"


@lru_cache(maxsize=64)
def spelled(statement: str) -> str:
    """Return a statement as SQLite spells it."""
    for spelling, replacement in SPELLINGS.items():
        statement = re.sub(spelling, replacement, statement)
    return statement


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn SQLite's errors into the archive's: only what the data itself causes is Refused."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError) as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
    except (sqlite3.Error, OSError) as error:
        raise ArchiveUnavailable from error


@asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    with translated_errors():
        connection = await aiosqlite.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        with translated_errors():
            connection.row_factory = sqlite3.Row
            await connection.execute("PRAGMA journal_mode = WAL")
            # What is committed here is forgotten elsewhere, so it must survive a power cut.
            await connection.execute("PRAGMA synchronous = FULL")
            await connection.execute("PRAGMA foreign_keys = ON")
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _transaction(connection: aiosqlite.Connection, begin: str) -> AsyncIterator[None]:
    with translated_errors():
        try:
            await connection.execute(begin)
            yield
            await connection.commit()
        finally:
            # After the commit this does nothing; after an error, or a cancellation that came
            # while a statement was running, it leaves the connection clean for the next task.
            await connection.rollback()


def _stored(arguments: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(_value(argument) for argument in arguments)


def _value(argument: Any) -> Any:
    if isinstance(argument, datetime):
        # As wide for every time, so that texts sort as times do.
        return argument.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
    if isinstance(argument, list):
        return json.dumps(argument)
    return argument
