"""One deployment for all of these tests; each finds it whole."""

from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio

from maieutic.v1.session_service_pb2 import Session
from maieutic_client import Maieutic
from tests.backends.postgres import PostgresServer
from tests.backends.rabbitmq import RabbitNode
from tests.stack import RealStack, real_stack, shown


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def deployment(
    rabbit_node: RabbitNode, postgres_server: PostgresServer
) -> AsyncIterator[RealStack]:
    async with real_stack(rabbit_node, postgres_server) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="package")
async def stack(deployment: RealStack) -> RealStack:
    await deployment.make_whole()
    return deployment


@pytest_asyncio.fixture(loop_scope="package")
async def client(stack: RealStack) -> AsyncIterator[Maieutic]:
    async with stack.client() as connected:
        yield connected


@pytest_asyncio.fixture(loop_scope="package")
async def session(client: Maieutic) -> Session:
    return await client.sessions.create(title="about faults")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the processes' logs with a failure."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("deployment")
    if report.failed and isinstance(stack, RealStack):
        report.sections.append(("logs of the services", shown(stack.logs())))
    return report
