"""Real backends for every test, started once per test session and only when asked for.

They are shared: keep to names of your own, and leave them running. A test that stops or kills
a backend starts one for itself, with the context managers of `tests.backends`.
"""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from xdist.remote import Producer

from tests.backends.postgres import PostgresServer, postgres
from tests.backends.rabbitmq import RabbitNode, rabbitmq
from tests.backends.redis import RedisServer, redis_server, valkey
from tests.backends.redis_cluster import RedisCluster, redis_cluster
from tests.backends.sentinel import WatchedRedis, watched_redis
from tests.distribution import Distribution, rank


def pytest_configure() -> None:
    """Leave no key in the environment that would let a test call what costs money."""
    for name in ("ANTHROPIC_API_KEY", "PINECONE_API_KEY"):
        os.environ.pop(name, None)


def pytest_xdist_auto_num_workers() -> int:
    """Run one process more than there are cores: the tests wait more than they compute."""
    return (os.cpu_count() or 1) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Distribution:
    """Deal the tests out as `tests.distribution` says."""
    return Distribution(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a folder together, in whatever order: what they share starts once."""
    items.sort(key=lambda item: (rank(item.path.parent.name), item.path.parent))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rabbit_node() -> AsyncIterator[RabbitNode]:
    """A broker; use queue and exchange names of your own."""
    async with rabbitmq() as node:
        yield node


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server() -> AsyncIterator[PostgresServer]:
    """A database server; create a database of your own."""
    async with postgres() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def valkey_server() -> AsyncIterator[RedisServer]:
    """The Valkey that embedded mode runs, without persistence; use keys of your own."""
    async with valkey() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_node() -> AsyncIterator[RedisServer]:
    """The machine's own redis-server, without persistence; use keys of your own."""
    async with redis_server() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def small_cluster() -> AsyncIterator[RedisCluster]:
    """Three primaries that share the slots; use keys of your own."""
    async with redis_cluster() as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def watched_primary() -> AsyncIterator[WatchedRedis]:
    """A primary and its replica, named by one Sentinel; use keys of your own."""
    async with watched_redis(sentinels=1) as watched:
        yield watched
