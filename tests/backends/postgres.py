"""A private PostgreSQL server."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.backends.process import (
    BackendError,
    Process,
    accepts,
    as_user,
    free_port,
    scratch_folder,
)

# Debian keeps the server's programs off PATH, one folder for each major version.
_PROGRAM_FOLDERS = "/usr/lib/postgresql/*/bin"
_OTHER_USERS = ("postgres", "nobody")
_ENCRYPTION_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class PostgresServer:
    """One server: it can be stopped, killed and started again on the same data."""

    def __init__(self, folder: Path, *, max_connections: int = 50) -> None:
        """Make a new cluster in `folder`. Raises BackendError when initdb is not installed."""
        self._port = free_port()
        self._data = folder / "data"
        programs = _programs()
        user = _server_user()
        if user is not None:
            shutil.chown(folder, user=user)
        subprocess.run(  # noqa: S603 - the backend's own command
            [
                *as_user(user),
                programs / "initdb",
                *("--pgdata", self._data, "--username", "postgres", "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
            ],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        self._server = Process(
            [
                programs / "postgres",
                *("-D", self._data, "-k", folder),
                *("-c", "listen_addresses=127.0.0.1", "-p", str(self._port)),
                *("-c", f"max_connections={max_connections}", "-c", "shared_buffers=32MB"),
            ],
            log=folder / "server.log",
            user=user,
        )

    @property
    def port(self) -> int:
        """The TCP port; it stays the same over restarts."""
        return self._port

    @property
    def url(self) -> str:
        """The address of the database `postgres`, without TLS, as its superuser."""
        return self.url_of("postgres")

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is up."""
        return self._server.running

    def url_of(self, database: str) -> str:
        """The address of another database of this server."""
        return f"postgres://postgres@127.0.0.1:{self._port}/{database}?sslmode=disable"

    async def start(self) -> None:
        """Start on the data of the last run and return once connections are answered."""
        await self._server.started(self._answers)

    async def stop(self) -> None:
        """Shut down, breaking off what runs but losing nothing committed."""
        await self._server.stop(signal.SIGINT)

    async def kill9(self) -> None:
        """End the server without warning."""
        await self._server.kill()

    async def restart(self) -> None:
        """Shut down and start again on the same data."""
        await self.stop()
        await self.start()

    async def _answers(self) -> bool:
        # The postmaster answers this one while it still recovers, so ask for a session too.
        if not await accepts(self._port, _ENCRYPTION_REQUEST, b"N"):
            return False
        return await accepts(self._port, _startup_message(), b"R")


@asynccontextmanager
async def postgres(*, max_connections: int = 50) -> AsyncIterator[PostgresServer]:
    """Run one server with an empty cluster."""
    with scratch_folder("pg") as folder:
        server = PostgresServer(folder, max_connections=max_connections)
        try:
            await server.start()
            yield server
        finally:
            await server.kill9()


def _startup_message() -> bytes:
    body = b"\x00\x03\x00\x00" + b"user\x00postgres\x00database\x00postgres\x00\x00"
    return (len(body) + 4).to_bytes(4, "big") + body


def _programs() -> Path:
    folders = sorted(Path("/").glob(_PROGRAM_FOLDERS.removeprefix("/")), key=_major_version)
    if folders:
        return folders[-1]
    found = shutil.which("initdb")
    if found is None:
        raise BackendError("PostgreSQL is not installed; see `make test`")
    return Path(found).parent


def _major_version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdigit() else 0


def _server_user() -> str | None:
    """Whom to run as: PostgreSQL refuses root, any other caller runs it as itself."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(user for user in _OTHER_USERS if user in known)
