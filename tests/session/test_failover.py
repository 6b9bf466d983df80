"""The store goes on when a replica takes the place of its primary, and each change applies once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from maieutic.session.v1.record_pb2 import Operation
from services.session.adapters import keys
from services.session.adapters.wake import RedisWakes
from services.session.errors import StoreUnavailable
from services.session.model import Draft
from services.session.ports import Reads
from tests.backends.redis import RedisServer
from tests.backends.redis_cluster import RedisCluster, asked, redis_cluster
from tests.backends.sentinel import WatchedRedis, watched_redis
from tests.proxy import Direction
from tests.session.stored import count, counted, make, new_session, new_turn, opened
from tests.waiting import wait_until

PATIENT = 30.0
GIVEN_UP_AFTER = 0.5
"""Seconds that a primary may be silent."""
WRITERS, UPDATES = 8, 30
REQUEST = "r1"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def six_nodes() -> AsyncIterator[RedisCluster]:
    async with redis_cluster(replicas=1, node_timeout=GIVEN_UP_AFTER) as cluster:
        yield cluster


def once(draft: Draft) -> Operation | None:
    """Decide to count, once for the request."""
    if draft.operation is None:
        draft.carried_out = REQUEST, Operation(request_hash=b"h")
        count("mine")(draft)
    return draft.operation


async def test_updates_apply_once_each_while_a_replica_takes_over_in_a_cluster(
    six_nodes: RedisCluster,
) -> None:
    session_id, told = new_session(), 0
    async with opened(six_nodes.url, PATIENT) as one, opened(six_nodes.url, PATIENT) as two:
        await one.transact(session_id, make(session_id))
        before = await six_nodes.primary_of(keys.record_key(session_id))

        async def writer(number: int) -> None:
            nonlocal told
            for update in range(UPDATES):
                await (one, two)[number % 2].transact(session_id, count(f"{number}.{update}"))
                told += 1

        async def takeover() -> None:
            await wait_until(lambda: told > WRITERS * UPDATES // 4, PATIENT)
            heir = await six_nodes.replica_of(before)
            assert await asked(heir.port, "CLUSTER", "FAILOVER") == b"OK"

        await asyncio.gather(takeover(), *map(writer, range(WRITERS)))
        assert await counted(one, session_id) == WRITERS * UPDATES
        assert await six_nodes.primary_of(keys.record_key(session_id)) is not before


async def test_a_change_whose_primary_is_killed_is_made_at_the_one_that_follows_in_a_cluster(
    six_nodes: RedisCluster,
) -> None:
    session_id, attempts = new_session(), 0
    async with opened(six_nodes.url, PATIENT) as store, RedisWakes.connect(store.servers):
        await store.transact(session_id, make(session_id))
        primary = await six_nodes.primary_of(keys.record_key(session_id))
        await wait_until(lambda: has_record(six_nodes, primary, session_id), PATIENT)

        async def killed(_: Draft) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                await primary.kill9()

        await store.transact(session_id, once, Reads(operation=REQUEST), killed)
        assert attempts > 1
        assert await counted(store, session_id) == 1
        # What goes to all nodes goes to those that are there.
        assert await store.take_overdue(60_000, 10) == []
        assert (await store.pressure()).memory_share == 0
    await primary.start()
    await six_nodes.ready()


async def has_record(cluster: RedisCluster, primary: RedisServer, session_id: str) -> bool:
    replica = await cluster.replica_of(primary)
    return bool(await asked(replica.port, "KEYS", keys.record_key(session_id)))


@asynccontextmanager
async def watched(*, proxied: bool = False) -> AsyncIterator[WatchedRedis]:
    async with watched_redis(sentinels=1, down_after=GIVEN_UP_AFTER, proxied=proxied) as found:
        yield found


async def test_the_marker_decides_when_the_primary_dies_with_the_answer_to_a_commit() -> None:
    session_id, committed = new_session(), asyncio.Event()
    async with watched(proxied=True) as site, opened(site.url, PATIENT) as store:
        way, primary = site.way, await site.primary()
        assert way is not None
        await store.transact(session_id, make(session_id))

        def hold(chunk: bytes) -> bool:
            if b"EXEC" in chunk:
                way.pause(Direction.TO_CLIENT)
                committed.set()
            return False

        way.swallow_replies(hold)
        change = asyncio.create_task(store.transact(session_id, once, Reads(operation=REQUEST)))
        await committed.wait()
        marker = keys.operation_key(session_id, REQUEST)
        replica = next(server for server in site.servers if server is not primary)
        await wait_until(lambda: has_key(replica, marker), PATIENT)
        await primary.kill9()
        await way.refuse()
        found, _ = await change
        assert found == Operation(request_hash=b"h"), "it was found done"
        assert await counted(store, session_id) == 1
        assert await site.primary() is replica


async def has_key(server: RedisServer, key: str) -> bool:
    return bool(await asked(server.port, "EXISTS", key))


async def test_a_primary_that_hangs_is_left_when_the_sentinels_name_another_one() -> None:
    """The time of an operation is far from over then, and no connection was lost."""
    session_id = new_session()
    async with watched() as site, opened(site.url, PATIENT) as store:
        await store.transact(session_id, make(session_id))
        primary = await site.primary()
        replica = next(server for server in site.servers if server is not primary)
        await wait_until(lambda: has_key(replica, keys.record_key(session_id)), PATIENT)
        os.kill(primary.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENT / 2):
                await store.transact(session_id, count("mine"))
                assert await counted(store, session_id) == 1
        finally:
            os.kill(primary.pid, signal.SIGCONT)


async def test_a_read_waits_for_the_one_that_follows() -> None:
    session_id = new_session()
    async with watched() as site, opened(site.url, PATIENT) as store:
        await store.transact(session_id, make(session_id))
        primary = await site.primary()
        replica = next(server for server in site.servers if server is not primary)
        await wait_until(lambda: has_key(replica, keys.record_key(session_id)), PATIENT)
        async with RedisWakes.connect(store.servers) as wakes:
            await primary.kill9()
            assert await counted(store, session_id) == 0
            turn_id = new_turn(session_id)
            async with wakes.listen(turn_id) as wake:

                async def heard() -> bool:
                    channel = keys.wake_channel(turn_id)
                    await asked(replica.port, "PUBLISH", channel, "")
                    return wake.is_set()

                await wait_until(heard, PATIENT)


@asynccontextmanager
async def liar(names: RedisServer) -> AsyncIterator[int]:
    """Run a Sentinel that was cut off, and takes another server for the primary."""
    port = str(names.port).encode()
    answer = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1000):
            writer.write(answer if b"GET-MASTER" in chunk else b"+PONG\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_sentinel_that_names_a_replica_is_not_believed(
    watched_primary: WatchedRedis,
) -> None:
    primary = await watched_primary.primary()
    replica = next(server for server in watched_primary.servers if server is not primary)
    async with liar(replica) as port:
        honest = watched_primary.sentinels[0].port
        url = f"redis+sentinel://127.0.0.1:{port},127.0.0.1:{honest}/sessions/0"
        async with opened(url) as store:
            session_id = new_session()
            await store.transact(session_id, make(session_id))
            assert await counted(store, session_id) == 0


async def test_sentinels_out_of_reach_or_without_the_service_are_unavailable_in_time(
    watched_primary: WatchedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    known = watched_primary.sentinels[0].port
    for url, cause in (
        ("redis+sentinel://127.0.0.1:1/sessions", "127.0.0.1:1: "),
        (f"redis+sentinel://127.0.0.1:{known}/other", "knows no service 'other'"),
    ):
        async with opened(url, timeout=0.3) as store:
            for call in (store.pressure, lambda: store.transact(new_session(), count("mine"))):
                with pytest.raises(StoreUnavailable):
                    await call()
        assert any(cause in getattr(record, "cause", "") for record in caplog.records)
        caplog.clear()
