"""The archive on each database, for the suites that hold for both."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backends.postgres import PostgresServer
from tests.contracts.archives import (
    ArchiveHarness,
    emptied_postgres_url,
    fresh_postgres_url,
    in_english,
    postgres_harness,
    sqlite_harness,
)


@pytest.fixture(params=["postgres", "sqlite"])
def server(request: pytest.FixtureRequest) -> PostgresServer | None:
    """The database server, or None for the database that needs none; started only if asked for."""
    if request.param == "sqlite":
        return None
    found: PostgresServer = request.getfixturevalue("postgres_server")
    return found


@pytest.fixture
async def harness(server: PostgresServer | None, tmp_path: Path) -> AsyncIterator[ArchiveHarness]:
    if server is None:
        async with sqlite_harness(tmp_path) as opened:
            yield opened
        return
    async with postgres_harness(await emptied_postgres_url(server)) as opened:
        yield opened


@pytest.fixture
async def languages(server: PostgresServer | None, tmp_path: Path) -> AsyncIterator[ArchiveHarness]:
    """The same, where the database sorts texts as people do: a, B, c."""
    if server is None:
        async with sqlite_harness(tmp_path) as opened:
            yield opened
        return
    async with postgres_harness(await fresh_postgres_url(server)) as opened:
        await in_english(opened)
        yield opened
