"""The store on a cluster: slots that move, nodes that are unknown, and what goes to many nodes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

from maieutic.bus.v1.bus_pb2 import SessionChanged
from services.session.adapters import keys
from services.session.adapters.address import BadStoreUrl
from services.session.adapters.redis import RedisSessionStore
from services.session.adapters.wake import RedisWakes
from services.session.errors import StoreUnavailable
from services.session.ids import shard_of
from services.session.model import Draft
from services.session.ports import AppendOutcome, Reads
from tests.backends.redis import RedisServer
from tests.backends.redis_cluster import RedisCluster, asked
from tests.session.stored import (
    appended,
    back,
    count,
    counted,
    make,
    new_session,
    new_turn,
    opened,
    put_turn,
)
from tests.waiting import wait_until


class Move:
    """A slot on its way from the node that has it to another one, as a reshard moves it."""

    def __init__(self, cluster: RedisCluster, session_id: str) -> None:
        self._cluster = cluster
        self._slot = key_slot(keys.record_key(session_id).encode())

    async def begin(self) -> None:
        """Announce the move: what is not at the old place is at the new one from now on."""
        self._from = await self._cluster.primary_of_slot(self._slot)
        self._to = next(s for s in self._cluster.servers if s is not self._from)
        await self._set(self._to, "IMPORTING", self._from)
        await self._set(self._from, "MIGRATING", self._to)

    async def carry(self, *names: str) -> None:
        """Move the keys, or all that there are."""
        found = names or await asked(
            self._from.port, "CLUSTER", "GETKEYSINSLOT", self._slot, 10_000
        )
        if found:
            where = ("127.0.0.1", self._to.port, "", 0, 5000, "KEYS")
            assert await asked(self._from.port, "MIGRATE", *where, *found) == b"OK"

    async def end(self) -> None:
        """Give the slot to the new node."""
        for server in (self._to, *self._cluster.servers):
            await self._set(server, "NODE", self._to)

    async def whole(self) -> None:
        """Do all of it."""
        await self.begin()
        await self.carry()
        await self.end()

    async def _set(self, server: RedisServer, state: str, node: RedisServer) -> None:
        node_id = await asked(node.port, "CLUSTER", "MYID")
        await asked(server.port, "CLUSTER", "SETSLOT", self._slot, state, node_id)


@pytest.fixture
async def store(small_cluster: RedisCluster) -> AsyncIterator[RedisSessionStore]:
    async with opened(small_cluster.url) as found:
        yield found


async def test_a_slot_that_moves_between_watch_and_exec_is_a_conflict(
    small_cluster: RedisCluster, store: RedisSessionStore
) -> None:
    session_id, attempts = new_session(), 0
    await store.transact(session_id, make(session_id))

    async def moved(_: Draft) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await Move(small_cluster, session_id).whole()
            async with opened(small_cluster.url) as other:
                await other.transact(session_id, count("other"))

    await store.transact(session_id, count("mine"), Reads(), moved)
    assert attempts > 1
    assert await counted(store, session_id) == 2


async def test_while_a_slot_is_moved_its_sessions_are_read_and_writes_wait_until_it_has_moved(
    small_cluster: RedisCluster, store: RedisSessionStore
) -> None:
    session_id = new_session()
    turn_id, move = new_turn(session_id), Move(small_cluster, session_id)
    await store.transact(session_id, make(session_id))
    await store.transact(session_id, put_turn(turn_id, session_id))
    await move.begin()
    await move.carry(keys.record_key(session_id), keys.events_key(turn_id))
    # Some keys are at the new place, others at the old one.
    assert await counted(store, session_id) == 0
    assert await store.turn(turn_id) is not None
    assert await store.turn(new_turn(session_id)) is None
    assert await appended(store, turn_id, 5, 1) == AppendOutcome.APPLIED
    assert [at for at, _ in await store.events(turn_id, None, 9) or ()] == [(5, 0), (5, 1)]
    attempts = 0

    async def attempted(_: Draft) -> None:
        nonlocal attempts
        attempts += 1

    waiting = asyncio.create_task(
        store.transact(session_id, count("mine"), Reads(turns=[turn_id]), attempted)
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.2)
    assert attempts == 0, "the session and its turn are not at the same place"
    await move.carry()
    await move.end()
    await waiting
    assert await counted(store, session_id) == 1


async def test_a_move_that_takes_too_long_is_unavailable_and_nothing_is_written(
    small_cluster: RedisCluster,
) -> None:
    session_id = new_session()
    turn_id, move = new_turn(session_id), Move(small_cluster, session_id)
    async with opened(small_cluster.url, timeout=0.3) as store:
        await store.transact(session_id, make(session_id))
        await store.transact(session_id, put_turn(turn_id, session_id))
        await move.begin()
        await move.carry(keys.record_key(session_id))
        with pytest.raises(StoreUnavailable):
            await store.transact(session_id, count("mine"), Reads(turns=[turn_id]))
        await move.carry()
        await move.end()
        await back(store)
        assert await counted(store, session_id) == 0


async def test_what_many_nodes_have_comes_back_in_the_order_in_which_it_was_asked_for(
    small_cluster: RedisCluster, store: RedisSessionStore
) -> None:
    sessions = [new_session() for _ in range(30)]
    nodes = {(await small_cluster.primary_of(keys.record_key(s))).port for s in sessions}
    assert len(nodes) == 3
    for session_id in sessions:
        await store.transact(session_id, make(session_id))
    missing = new_session()
    found = await store.sessions([*sessions, missing, *reversed(sessions)])
    ids = [record.session.session_id if record else None for record in found]
    assert ids == [*sessions, None, *reversed(sessions)]


async def test_a_node_that_knows_nothing_of_a_move_sends_on_to_the_one_that_does(
    small_cluster: RedisCluster,
) -> None:
    session_id = new_session()
    async with opened(small_cluster.url) as one, opened(small_cluster.url) as two:
        await one.transact(session_id, make(session_id))
        await two.transact(session_id, count("two"))
        await Move(small_cluster, session_id).whole()
        # Both still take the slot for where it was; one asks on a link of all, one on a lent one.
        assert await counted(one, session_id) == 1
        await two.transact(session_id, count("again"))
        assert await counted(one, session_id) == 2


async def test_watchers_hear_of_what_is_published_at_any_node(
    small_cluster: RedisCluster, store: RedisSessionStore
) -> None:
    async with RedisWakes.connect(store.servers) as wakes:
        for _ in range(6):
            session_id = new_session()
            turn_id = new_turn(session_id)
            await store.transact(session_id, put_turn(turn_id, session_id))
            node = await small_cluster.primary_of(keys.record_key(session_id))
            async with wakes.listen(turn_id) as wake:

                async def heard(
                    turn_id: str = turn_id, node: RedisServer = node, wake: asyncio.Event = wake
                ) -> bool:
                    await asked(node.port, "PUBLISH", keys.wake_channel(turn_id), "")
                    return wake.is_set()

                await wait_until(heard)


async def test_one_node_that_is_named_is_enough_and_one_that_is_gone_does_no_harm(
    small_cluster: RedisCluster,
) -> None:
    port = small_cluster.servers[1].port
    async with opened(f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}") as store:
        for _ in range(5):
            session_id = new_session()
            await store.transact(session_id, make(session_id))
            assert await counted(store, session_id) == 0


async def test_a_cluster_out_of_reach_is_unavailable_and_says_so() -> None:
    async with opened("redis+cluster://127.0.0.1:1", timeout=0.2) as store:
        session_id = new_session()
        for call in (
            lambda: store.session(session_id),
            lambda: store.transact(session_id, count("mine")),
            store.pressure,
        ):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await call()


async def test_a_single_server_is_no_cluster_and_a_cluster_is_no_single_server(
    small_cluster: RedisCluster, valkey_server: RedisServer
) -> None:
    with pytest.raises(BadStoreUrl, match="is no node of a cluster: write redis://"):
        async with opened(f"redis+cluster://127.0.0.1:{valkey_server.port}"):
            pass
    async with opened(f"redis://127.0.0.1:{small_cluster.servers[0].port}", timeout=0.2) as store:
        elsewhere = await session_of_another(small_cluster.servers[0], small_cluster)
        for call in (store.out_shards, lambda: store.transact(elsewhere, make(elsewhere))):
            with pytest.raises(StoreUnavailable, match=r"as redis\+cluster://"):
                await call()


async def session_of_another(server: RedisServer, cluster: RedisCluster) -> str:
    """Return a session that the server does not have."""
    while True:
        session_id = new_session()
        if await cluster.primary_of(keys.record_key(session_id)) is not server:
            return session_id


async def test_the_clock_and_the_outbox_of_all_nodes_are_looked_at(
    small_cluster: RedisCluster, store: RedisSessionStore
) -> None:
    await small_cluster.flush()
    sessions = [new_session() for _ in range(12)]
    turns = [new_turn(session_id) for session_id in sessions]
    for session_id, turn_id in zip(sessions, turns, strict=True):
        await store.transact(session_id, make(session_id))
        await store.transact(session_id, put_turn(turn_id, session_id, due=1_000))
        await store.transact(session_id, lambda draft: draft.remember(SessionChanged()))
    assert sorted(await store.take_overdue(60_000, 50)) == sorted(turns)
    assert await store.out_shards() == sorted({shard_of(session_id) for session_id in sessions})
