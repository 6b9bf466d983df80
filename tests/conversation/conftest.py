"""One backend for all conversations that do not stop it."""

from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio

from maieutic_client import Maieutic
from tests.conversation.backend import Backend, backend


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shared() -> AsyncIterator[Backend]:
    async with backend() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="package")
async def client(shared: Backend) -> AsyncIterator[Maieutic]:
    """A client of a user of its own, so that each test's lists are its own."""
    async with shared.client() as connected:
        yield connected


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the backend printed with a failure."""
    report = yield
    for running in getattr(item, "funcargs", {}).values():
        if report.failed and isinstance(running, Backend):
            report.sections.append(("what the backend printed", running.log()))
    return report
