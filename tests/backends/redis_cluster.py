"""A private Redis Cluster on the loopback."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis, RedisCluster as Client
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.backends.process import free_ports, scratch_folder
from tests.backends.redis import RedisServer, redis_binary
from tests.waiting import wait_until

READY_SECONDS = 30.0


class RedisCluster:
    """Primaries with equal shares of the slots, and the replicas of each."""

    def __init__(self, servers: Sequence[RedisServer], primaries: int) -> None:
        self.servers = servers
        self._primaries = primaries

    @property
    def url(self) -> str:
        """The address that names every node."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"redis+cluster://{hosts}"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """Give a client of one's own; it has the methods of a single server's."""
        async with Client(host="127.0.0.1", port=self.servers[0].port) as client:
            yield cast("Redis", client)

    async def primary_of(self, key: str) -> RedisServer:
        """Return the server that now serves the key."""
        return await self.primary_of_slot(key_slot(key.encode()))

    async def primary_of_slot(self, slot: int) -> RedisServer:
        """Return the server that a node which is up takes for the slot's.

        Waits for one: a node that hears of a demoted primary before its heir names none.
        """
        ports: list[int] = []

        async def named() -> bool:
            living = next(server for server in self.servers if server.running)
            view = await asked(living.port, "CLUSTER", "SLOTS")
            ports[:] = [port for first, last, (_, port, *_), *_ in view if first <= slot <= last]
            return bool(ports)

        await wait_until(named, READY_SECONDS)
        return self._at(ports[0])

    async def replica_of(self, primary: RedisServer) -> RedisServer:
        """Return a replica of the primary, once it names one: not while one is coming back."""
        ports: list[int] = []

        async def known() -> bool:
            view = await asked(primary.port, "CLUSTER", "SLOTS")
            ports[:] = [
                of[0][1] for _, _, (_, port, *_), *of in view if of and port == primary.port
            ]
            return bool(ports)

        await wait_until(known, READY_SECONDS)
        return self._at(ports[0])

    async def flush(self) -> None:
        """Remove all keys."""
        for server in self.servers:
            role, *_ = await asked(server.port, "ROLE")
            if role == b"master":
                await asked(server.port, "FLUSHALL")

    async def ready(self) -> None:
        """Wait until every node takes the cluster for served, and would name all replicas."""
        each = len(self.servers) // self._primaries - 1

        async def by_all() -> bool:
            ports = [server.port for server in self.servers]
            states = await asyncio.gather(*(asked(port, "CLUSTER", "INFO") for port in ports))
            views = await asyncio.gather(*(asked(port, "CLUSTER", "SLOTS") for port in ports))
            served = all(b"cluster_state:ok" in state for state in states)
            return served and all(len(row) == 3 + each for view in views for row in view)

        await wait_until(by_all, READY_SECONDS, every=0.05)

    def _at(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)


@asynccontextmanager
async def redis_cluster(
    *, primaries: int = 3, replicas: int = 0, node_timeout: float = 1.0, binary: str = ""
) -> AsyncIterator[RedisCluster]:
    """Run a cluster; each primary has that many replicas.

    A node counts as lost after *node_timeout* seconds. *binary* is redis-server, if not given.
    """
    count = primaries * (1 + replicas)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(scratch_folder("cluster"))
        ports = free_ports(2 * count)
        servers = [
            _node(binary or redis_binary(), folder / str(number), node_timeout, *pair)
            for number, pair in enumerate(zip(ports[:count], ports[count:], strict=True))
        ]
        for server in servers:
            stack.push_async_callback(server.kill9)
        await asyncio.gather(*(server.start() for server in servers))
        cluster = RedisCluster(servers, primaries)
        await _join(servers, primaries)
        await cluster.ready()
        yield cluster


def _node(binary: str, folder: Path, node_timeout: float, port: int, bus: int) -> RedisServer:
    folder.mkdir()
    options = (
        *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
        *("--cluster-node-timeout", str(round(node_timeout * 1000))),
        # A replica of the loopback is never so far behind that it must not take over.
        *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
        # Only after a ping of its primary is a replica told to clients.
        *("--repl-ping-replica-period", "1"),
    )
    return RedisServer(binary, folder, options=options, port=port)


async def _join(servers: Sequence[RedisServer], primaries: int) -> None:
    ids = [(await asked(server.port, "CLUSTER", "MYID")).decode() for server in servers]
    for number, server in enumerate(servers[:primaries]):
        first = REDIS_CLUSTER_HASH_SLOTS * number // primaries
        last = REDIS_CLUSTER_HASH_SLOTS * (number + 1) // primaries - 1
        await asked(server.port, "CLUSTER", "ADDSLOTSRANGE", first, last)
        await asked(server.port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for server in servers[1:]:
        bus = (await asked(server.port, "CONFIG", "GET", "cluster-port"))[1]
        await asked(servers[0].port, "CLUSTER", "MEET", "127.0.0.1", server.port, bus)
    for number, server in enumerate(servers[primaries:]):
        await _replicate(server, ids[number % primaries])


async def _replicate(server: RedisServer, primary_id: str) -> None:
    async def known() -> bool:
        return primary_id.encode() in await asked(server.port, "CLUSTER", "NODES")

    async def linked() -> bool:
        return b"master_link_status:up" in await asked(server.port, "INFO", "replication")

    await wait_until(known, READY_SECONDS)
    await asked(server.port, "CLUSTER", "REPLICATE", primary_id)
    await wait_until(linked, READY_SECONDS)


async def asked(port: int, *command: str | bytes | int) -> Any:
    """Return the own reply of the server on the port, as it came."""
    async with Redis(host="127.0.0.1", port=port, protocol=2) as client:
        connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        await connection.send_command(*command)
        return await connection.read_response()
