"""Stores with replicas, whose primaries can be killed."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol

from redis.asyncio import Redis

from services.session.adapters.keys import record_key
from tests.backends.redis import RedisServer
from tests.backends.redis_cluster import RedisCluster, asked, redis_cluster
from tests.backends.sentinel import WatchedRedis, watched_redis
from tests.waiting import wait_until

LOST_AFTER_SECONDS = 5.0
"""How long a primary is silent before its servers or Sentinels give it up: their own setting."""
SENTINEL_REPLICAS = 2
_RECOVERY_SECONDS = 60.0


class Site(Protocol):
    """One store."""

    url: str

    def client(self) -> AbstractAsyncContextManager[Redis]:
        """Give a client of one's own."""
        ...

    async def primary_of(self, session_id: str) -> RedisServer:
        """Return the server that has the session."""
        ...

    async def replicas_of(self, primary: RedisServer) -> Sequence[RedisServer]:
        """Return the servers that follow the primary."""
        ...

    async def restore(self, lost: RedisServer) -> None:
        """Bring the killed server back once another one has taken its place, if that is needed."""
        ...


class ClusterSite:
    """Six nodes: three primaries, a replica for each."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self.url = cluster.url
        self.client = cluster.client

    async def primary_of(self, session_id: str) -> RedisServer:
        """See Site."""
        return await self._cluster.primary_of(record_key(session_id))

    async def replicas_of(self, primary: RedisServer) -> Sequence[RedisServer]:
        """See Site."""
        return [await self._cluster.replica_of(primary)]

    async def restore(self, lost: RedisServer) -> None:
        """See Site: the heir has no other replica."""

        async def followed() -> bool:
            rows = await asked(self._living().port, "CLUSTER", "SLOTS")
            return all(row[2][1] != lost.port for row in rows)

        await wait_until(followed, _RECOVERY_SECONDS)
        await lost.start()

    def _living(self) -> RedisServer:
        return next(server for server in self._cluster.servers if server.running)


class SentinelSite:
    """A primary, its replicas, and three Sentinels."""

    def __init__(self, watched: WatchedRedis) -> None:
        self._watched = watched
        self.url = watched.url
        self.client = watched.client

    async def primary_of(self, session_id: str) -> RedisServer:
        """See Site."""
        return await self._watched.primary()

    async def replicas_of(self, primary: RedisServer) -> Sequence[RedisServer]:
        """See Site."""
        return [server for server in self._watched.servers if server is not primary]

    async def restore(self, lost: RedisServer) -> None:
        """See Site: the heir has a replica left."""


@asynccontextmanager
async def cluster_site() -> AsyncIterator[Site]:
    """Run a cluster."""
    async with redis_cluster(replicas=1, node_timeout=LOST_AFTER_SECONDS) as cluster:
        yield ClusterSite(cluster)


@asynccontextmanager
async def sentinel_site() -> AsyncIterator[Site]:
    """Run a primary that Sentinels watch."""
    async with watched_redis(replicas=SENTINEL_REPLICAS, down_after=LOST_AFTER_SECONDS) as watched:
        yield SentinelSite(watched)


SITES: dict[str, Callable[[], AbstractAsyncContextManager[Site]]] = {
    "cluster": cluster_site,
    "sentinel": sentinel_site,
}


@contextmanager
def stopped(servers: Sequence[RedisServer]) -> Iterator[None]:
    """Let the servers stand still during the block."""
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)
