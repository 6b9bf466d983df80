"""Real backends for every test, started once per test session and only when asked for."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.backends.rabbitmq import RabbitNode, rabbitmq


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rabbit_node() -> AsyncIterator[RabbitNode]:
    """A broker shared by the whole session: use queue names of your own, leave it running."""
    async with rabbitmq() as node:
        yield node
