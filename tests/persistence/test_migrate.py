"""Schemas: from nothing, again, side by side, and without a database."""

import asyncio
import re
import shutil
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from services.persistence.adapters import migrate as migrating
from services.persistence.adapters.archive import open_archive
from services.persistence.adapters.migrate import MIGRATIONS, migrate
from services.persistence.adapters.postgres import PoolOptions, postgres_database
from services.persistence.adapters.sql import Database
from services.persistence.adapters.sqlite import sqlite_database, sqlite_url
from services.persistence.errors import ArchiveUnavailable
from tests.backends.postgres import PostgresServer
from tests.backends.process import free_port
from tests.contracts.archives import fresh_postgres_url
from tests.persistence.stories import Story, fact
from tests.proxy import proxy
from tests.waiting import wait_until


async def test_replicas_that_start_together_all_find_the_schema(
    postgres_server: PostgresServer,
) -> None:
    url = await fresh_postgres_url(postgres_server)
    await asyncio.gather(*(migrate(url) for _ in range(4)))
    await works(url)


async def test_processes_that_open_one_file_together_all_find_the_schema(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/deep/down/archive.db"
    await asyncio.gather(*(migrate(url) for _ in range(4)))
    await works(url)


async def test_a_file_may_be_named_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Path("50% off?") / "a#b" / "archive file.db"
    await works(sqlite_url(relative))
    assert (tmp_path / relative).exists()


async def test_a_url_without_sslmode_is_migrated_as_well(postgres_server: PostgresServer) -> None:
    url = await fresh_postgres_url(postgres_server)
    await works(url.removesuffix("?sslmode=disable"))


async def test_an_up_to_date_schema_needs_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite://{tmp_path}/archive.db"
    await migrate(url)
    monkeypatch.setattr(migrating, "_binary", lambda: "/nonexistent/dbmate")
    await works(url)


async def test_a_database_that_is_away_is_waited_for_until_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrating, "RETRY_SECONDS", 0.01)
    async with proxy(free_port()) as link:
        url = f"postgresql://nobody@127.0.0.1:{link.port}/none"
        waiting = asyncio.create_task(migrate(url))
        await wait_until(lambda: link.accepted > 2)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(ArchiveUnavailable):
            await migrate(url, timeout=0.0)


async def test_another_kind_of_database_is_refused_before_anything_is_tried() -> None:
    with pytest.raises(ValueError, match="must start with"):
        async with open_archive("mysql://localhost/archive"):
            pass


def test_both_databases_have_the_same_migrations() -> None:
    postgres = {path.name for path in (MIGRATIONS / "postgres").glob("*.sql")}
    sqlite = {path.name for path in (MIGRATIONS / "sqlite").glob("*.sql")}
    assert postgres == sqlite
    assert all(re.fullmatch(r"\d{14}_[a-z_]+\.sql", name) for name in postgres)


async def test_usage_that_was_counted_before_calls_had_ids_stays_and_is_not_counted_again(
    tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, before)
    for path in before.glob("*/*_usage_ids.sql"):
        path.unlink()
    for url in (sqlite_url(tmp_path / "a.db"), await fresh_postgres_url(postgres_server)):
        with monkeypatch.context() as patched:
            patched.setattr(migrating, "MIGRATIONS", before)
            await migrate(url)
        async with _opened(url) as database, database.writing() as connection:
            await connection.write(WITHOUT_ID, [("turn", 1, 7), ("turn", 2, 8)])
        await migrate(url)
        async with _opened(url) as database, database.writing() as connection:
            await connection.write(WITHOUT_ID, [("turn", 2, 9), ("turn", 3, 9)])
            rows = await connection.fetch(
                "SELECT input_tokens, usage_id FROM usage ORDER BY step_no"
            )
        assert [tuple(row) for row in rows] == [(7, ""), (8, ""), (9, "")]  # type: ignore[arg-type]


WITHOUT_ID = """
INSERT INTO usage (
    turn_id, step_no, input_tokens, step, model, tenant, user_id, session_id, output_tokens,
    cached_tokens, duration_ms
) VALUES ($1, $2, $3, 'direct', 'm', 'acme', 'ada', 'session', 0, 0, 1)
ON CONFLICT DO NOTHING
"""
"""As the version before writes."""


def _opened(url: str) -> AbstractAsyncContextManager[Database]:
    if url.startswith("sqlite:"):
        return sqlite_database(url)
    return postgres_database(url, PoolOptions())


async def works(url: str) -> None:
    story = Story("one")
    async with open_archive(url) as archive:
        await archive.apply([fact(story.finished())])
        assert (await archive.get_turn(story.turn_id(1), "")).finished == story.finished()
        await archive.check()
