"""`durability=replicated`: what is answered is on a replica, also when a retry finds it done."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import pytest

from maieutic.session.v1.record_pb2 import Operation
from services.runtime.errors import Unavailable
from services.session.adapters import keys
from services.session.adapters.redis import RedisSessionStore
from services.session.errors import NotReplicated
from services.session.model import Draft
from services.session.ports import Reads
from tests.backends.redis import RedisServer
from tests.backends.redis_cluster import asked
from tests.backends.sentinel import WatchedRedis
from tests.session.stored import TIMING, count, counted, make, new_session

REQUEST = "r1"


@pytest.fixture
async def replica(watched_primary: WatchedRedis) -> RedisServer:
    primary = await watched_primary.primary()
    return next(server for server in watched_primary.servers if server is not primary)


def replicated(
    watched: WatchedRedis, patience: float
) -> AbstractAsyncContextManager[RedisSessionStore]:
    return RedisSessionStore.connect(watched.url, timing=TIMING, replica_timeout=patience)


@pytest.fixture
async def store(watched_primary: WatchedRedis) -> AsyncIterator[RedisSessionStore]:
    async with replicated(watched_primary, 4.0) as found:
        yield found


@contextmanager
def stalled(server: RedisServer) -> Iterator[None]:
    """Let the server stand still."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def once(draft: Draft) -> Operation | None:
    """Decide to count, once for the request."""
    if draft.operation is None:
        draft.carried_out = REQUEST, Operation(request_hash=b"h")
        count("mine")(draft)
    return draft.operation


async def ask(store: RedisSessionStore, session_id: str) -> Operation | None:
    found, _ = await store.transact(session_id, once, Reads(operation=REQUEST))
    return found


async def test_what_is_answered_is_on_the_replica(
    store: RedisSessionStore, replica: RedisServer
) -> None:
    for _ in range(20):
        session_id = new_session()
        await store.transact(session_id, make(session_id))
        # Without a moment in between: no wait would make up for a promise that was not kept.
        assert await asked(replica.port, "EXISTS", keys.record_key(session_id)) == 1


async def test_without_a_replica_in_time_the_caller_is_told_and_a_retry_waits_again(
    watched_primary: WatchedRedis, store: RedisSessionStore, replica: RedisServer
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))
    with stalled(replica):
        for _ in range(3):
            # The first one writes. The others find that it was done, and do not take it for kept,
            # though on their new links nothing was written that a server would wait for.
            async with replicated(watched_primary, 0.1) as another:
                with pytest.raises(NotReplicated) as raised:
                    await ask(another, session_id)
            assert isinstance(raised.value, Unavailable)
            assert raised.value.reason == "NOT_REPLICATED"
            assert raised.value.retry_after
        assert await counted(store, session_id) == 1
    assert await ask(store, session_id) == Operation(request_hash=b"h")
    assert await counted(store, session_id) == 1
    marker = keys.operation_key(session_id, REQUEST)
    assert await asked(replica.port, "EXISTS", marker) == 1


async def test_what_a_decision_refuses_waits_for_nobody(
    store: RedisSessionStore, replica: RedisServer
) -> None:
    def refused(_: Draft) -> None:
        raise KeyError

    session_id = new_session()
    with stalled(replica), pytest.raises(KeyError):
        await store.transact(session_id, refused)


async def test_on_the_primary_alone_nobody_waits_for_a_replica(
    watched_primary: WatchedRedis, replica: RedisServer
) -> None:
    async with RedisSessionStore.connect(watched_primary.url, timing=TIMING) as store:
        session_id = new_session()
        with stalled(replica):
            await store.transact(session_id, make(session_id))
            assert await ask(store, session_id) is None
