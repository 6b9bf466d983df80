"""What the contract suite of the archive needs from each database."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from services.persistence.adapters.archive import SqlArchive
from services.persistence.adapters.migrate import migrate
from services.persistence.adapters.postgres import PoolOptions, postgres_database
from services.persistence.adapters.sql import Database
from services.persistence.adapters.sqlite import sqlite_database
from tests.backends.postgres import PostgresServer

SHARED = "archive_contract"
TRUNCATE_SESSIONS = """
TRUNCATE sessions, turns, messages, usage, events, annotations, session_documents, artifacts
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveHarness:
    """An archive on an empty database, and a way to look into its tables."""

    archive: SqlArchive
    database: Database

    async def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        async with self.database.reading() as connection:
            found: Sequence[Any] = await connection.fetch(statement, *arguments)
        return [tuple(row) for row in found]


async def fresh_postgres_url(server: PostgresServer) -> str:
    """Make a database that no other test uses; it goes with its server, which costs no time."""
    name = f"archive_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return server.url_of(name)


async def emptied_postgres_url(server: PostgresServer) -> str:
    """Empty the one database that tests of tables share, one after the other; much faster."""
    url = server.url_of(SHARED)
    connection = await asyncpg.connect(server.url)
    try:
        with suppress(asyncpg.DuplicateDatabaseError):
            await connection.execute(f'CREATE DATABASE "{SHARED}"')
    finally:
        await connection.close()
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TRUNCATE_SESSIONS)
        await connection.execute(
            "TRUNCATE document_operations, index_pointer, index_versions CASCADE"
        )
        await connection.execute("TRUNCATE dead_letter_operations, dead_letters")
        await connection.execute("TRUNCATE documents, document_tenants, document_contents CASCADE")
    finally:
        await connection.close()
    return url


@asynccontextmanager
async def postgres_harness(
    url: str,
    *,
    timeout: float = 10.0,  # noqa: ASYNC109 - the archive's own
) -> AsyncIterator[ArchiveHarness]:
    await migrate(url)
    async with postgres_database(url, PoolOptions(size=4, timeout=timeout)) as database:
        yield ArchiveHarness(archive=SqlArchive(database), database=database)


async def in_english(harness: ArchiveHarness) -> None:
    """Have PostgreSQL sort ids as English does, as a database may by default."""
    async with harness.database.writing() as connection:
        for table, column in (("sessions", "session_id"), ("artifacts", "artifact_id")):
            await connection.fetch(
                f'ALTER TABLE {table} ALTER COLUMN {column} TYPE text COLLATE "en-x-icu"'
            )


@cache
def _migrated_files() -> list[bytes]:
    """Return the first archive that was migrated here: to copy it is much faster."""
    return []


@asynccontextmanager
async def sqlite_harness(folder: Path) -> AsyncIterator[ArchiveHarness]:
    file = folder / "archive.db"
    url = f"sqlite://{file}"
    if whole := _migrated_files():
        file.write_bytes(whole[0])
    await migrate(url)
    if not whole:
        whole.append(file.read_bytes())
    async with sqlite_database(url) as database:
        yield ArchiveHarness(archive=SqlArchive(database), database=database)
