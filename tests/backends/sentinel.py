"""A private Redis whose primary Sentinels look after."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from tests.backends.process import Process, accepts, free_port, scratch_folder
from tests.backends.redis import RedisServer, redis_binary
from tests.backends.redis_cluster import asked
from tests.proxy import Proxy, proxy
from tests.waiting import wait_until

SERVICE = "sessions"
READY_SECONDS = 60.0


class Sentinel:
    """One process that watches the primary and votes on who follows it."""

    def __init__(self, folder: Path, port: int, *, quorum: int, down_after: float) -> None:
        """Watch whatever listens on the port."""
        self.port = free_port()
        folder.mkdir()
        file = folder / "sentinel.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} {round(down_after * 1000)}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        self._process = Process([redis_binary(), file, "--sentinel"], log=folder / "sentinel.log")

    async def start(self) -> None:
        """Start and return once it answers."""
        await self._process.started(lambda: accepts(self.port, b"PING\r\n", b"+PONG"))

    async def kill9(self) -> None:
        """End it without warning."""
        await self._process.kill()


class WatchedRedis:
    """A primary, its replicas and the Sentinels."""

    def __init__(
        self, servers: Sequence[RedisServer], sentinels: Sequence[Sentinel], way: Proxy | None
    ) -> None:
        self.servers = servers
        self.sentinels = sentinels
        self.way = way

    @property
    def url(self) -> str:
        """The address that names every Sentinel."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    async def primary(self) -> RedisServer:
        """Return the server that the first Sentinel names."""
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        _, port = await asked(self.sentinels[0].port, *question)
        if self.way is not None and int(port) == self.way.port:
            return self.servers[0]
        return next(server for server in self.servers if server.port == int(port))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """Give a client of one's own, to the primary."""
        async with (await self.primary()).client() as client:
            yield client

    async def flush(self) -> None:
        """Remove all keys."""
        await asked((await self.primary()).port, "FLUSHALL")

    async def ready(self) -> None:
        """Wait until each Sentinel knows the others and every replica, so that one can follow."""
        others = len(self.sentinels) - 1

        async def all_known() -> bool:
            for sentinel in self.sentinels:
                told = await asked(sentinel.port, "SENTINEL", "MASTER", SERVICE)
                facts = dict(zip(told[::2], told[1::2], strict=True))
                replicas, guards = int(facts[b"num-slaves"]), int(facts[b"num-other-sentinels"])
                if replicas < len(self.servers) - 1 or guards < others:
                    return False
            return True

        await wait_until(all_known, READY_SECONDS, every=0.05)


@asynccontextmanager
async def watched_redis(
    *,
    replicas: int = 1,
    sentinels: int = 3,
    down_after: float = 1.0,
    binary: str = "",
    proxied: bool = False,
) -> AsyncIterator[WatchedRedis]:
    """Run a primary with replicas and Sentinels, of which a majority decides.

    The primary counts as lost after *down_after* seconds. *binary* is redis-server, if not given.
    If *proxied*, the Sentinels name a proxy before the first primary: the result's `way`.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(scratch_folder("watched"))
        servers: list[RedisServer] = []
        for number in range(1 + replicas):
            follow = ("--replicaof", f"127.0.0.1 {servers[0].port}") if servers else ()
            home = folder / f"s{number}"
            home.mkdir()
            options = (*follow, "--repl-diskless-sync-delay", "0")
            server = RedisServer(binary or redis_binary(), home, options=options)
            stack.push_async_callback(server.kill9)
            await server.start()
            servers.append(server)
        way = await stack.enter_async_context(proxy(servers[0].port)) if proxied else None
        port = way.port if way else servers[0].port
        guards = [
            Sentinel(folder / f"g{number}", port, quorum=sentinels // 2 + 1, down_after=down_after)
            for number in range(sentinels)
        ]
        for guard in guards:
            stack.push_async_callback(guard.kill9)
        await asyncio.gather(*(guard.start() for guard in guards))
        watched = WatchedRedis(servers, guards, way)
        await watched.ready()
        yield watched
