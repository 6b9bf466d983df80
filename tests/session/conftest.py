"""The stores that the session service runs on."""

from collections.abc import AsyncIterator

import pytest

from tests.backends.redis import RedisServer
from tests.session.stack import SHORT_LEASE, Stack, session_stack


@pytest.fixture
def store_url(valkey_server: RedisServer) -> str:
    """The URL of a store that tests share; each empties it first."""
    return valkey_server.url


@pytest.fixture(params=["valkey_server", "redis_node"])
def any_store_url(request: pytest.FixtureRequest) -> str:
    """The same, for what must hold on Valkey and on Redis."""
    server: RedisServer = request.getfixturevalue(request.param)
    return server.url


@pytest.fixture
async def stack(store_url: str) -> AsyncIterator[Stack]:
    async with session_stack(store_url) as running:
        yield running


@pytest.fixture
async def short_leases(store_url: str) -> AsyncIterator[Stack]:
    """A stack whose workers are soon taken for dead."""
    async with session_stack(store_url, lease=SHORT_LEASE) as running:
        yield running


@pytest.fixture
async def any_stack(any_store_url: str) -> AsyncIterator[Stack]:
    async with session_stack(any_store_url) as running:
        yield running


@pytest.fixture
async def two_replicas(any_store_url: str) -> AsyncIterator[Stack]:
    async with session_stack(any_store_url, replicas=2) as running:
        yield running
