"""The archive behind its port, over either database."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from services.persistence.adapters.accounts import AccountOptions, Accounts
from services.persistence.adapters.artifacts import ArtifactShelf
from services.persistence.adapters.branches import Branches
from services.persistence.adapters.dead_letters import DeadLetterFile
from services.persistence.adapters.document_upkeep import UpkeepLedger
from services.persistence.adapters.document_work import WorkLedger
from services.persistence.adapters.documents import Registry
from services.persistence.adapters.facts import FactWriter
from services.persistence.adapters.index_versions import IndexLedger
from services.persistence.adapters.migrate import migrate
from services.persistence.adapters.postgres import PoolOptions, postgres_database
from services.persistence.adapters.reads import Reader
from services.persistence.adapters.sql import Database
from services.persistence.adapters.sqlite import sqlite_database

MIGRATE_SECONDS = 60.0


class SqlArchive(
    FactWriter,
    Branches,
    Reader,
    Registry,
    WorkLedger,
    UpkeepLedger,
    IndexLedger,
    DeadLetterFile,
    ArtifactShelf,
    Accounts,
):
    """The whole archive on one database; see `ports.Archive`."""

    def __init__(self, database: Database, accounts: AccountOptions | None = None) -> None:
        Accounts.__init__(self, database, accounts or AccountOptions())
        self._database = database

    async def check(self) -> None:
        """Return if the database answers."""
        async with self._database.reading() as connection:
            await connection.fetch("SELECT 1 AS one")


@asynccontextmanager
async def open_archive(
    url: str,
    *,
    pool: PoolOptions | None = None,
    accounts: AccountOptions | None = None,
    migrate_timeout: float = MIGRATE_SECONDS,
) -> AsyncIterator[SqlArchive]:
    """Open postgresql://… or sqlite:///path, its schema brought up to date.

    Raises ArchiveUnavailable if the database does not answer within *migrate_timeout* seconds,
    MigrationFailed if its schema cannot be brought up to date, and ValueError for another URL.
    """
    opened: AbstractAsyncContextManager[Database]
    if url.startswith("sqlite:"):
        opened = sqlite_database(url)
    elif url.startswith(("postgresql:", "postgres:")):
        opened = postgres_database(url, pool or PoolOptions())
    else:
        raise ValueError("the archive's URL must start with postgresql:// or sqlite:///")
    await migrate(url, timeout=migrate_timeout)
    async with opened as database:
        yield SqlArchive(database, accounts)
