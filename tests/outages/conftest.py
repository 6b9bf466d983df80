"""One deployment, with its usual clocks, on stores that only these tests use, and break."""

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.backends.postgres import postgres
from tests.backends.rabbitmq import rabbitmq
from tests.backends.redis import redis_server
from tests.outages.load import Load, load_on
from tests.proxy import Proxy, proxy
from tests.stack import RealStack, real_stack, shown

RECOVERED = "recovered"

Tell = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A stack and the link to its session store."""

    stack: RealStack
    store: Proxy


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def deployment() -> AsyncIterator[Deployment]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(rabbitmq())
        database = await stack.enter_async_context(postgres())
        redis = await stack.enter_async_context(redis_server(append_only=True))
        store = await stack.enter_async_context(proxy(redis.port))
        running = await stack.enter_async_context(
            real_stack(
                broker,
                database,
                redis=redis,
                settings={
                    "session": {"REDIS_URL": f"redis://127.0.0.1:{store.port}/0"},
                    "agents": {"MODEL_KIND": "scripted"},
                },
            )
        )
        yield Deployment(stack=running, store=store)


@pytest_asyncio.fixture(loop_scope="package")
async def stack(deployment: Deployment) -> RealStack:
    await deployment.stack.make_whole()
    return deployment.stack


@pytest.fixture
def store(deployment: Deployment) -> Proxy:
    """Return the link between the session service and Redis."""
    return deployment.store


@pytest_asyncio.fixture(loop_scope="package")
async def load(stack: RealStack) -> AsyncIterator[Load]:
    async with load_on(stack) as callers:
        yield callers


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Return what notes the seconds of a recovery, for the end of the run."""
    return lambda seconds: request.node.user_properties.append((RECOVERED, seconds))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how long each recovery took."""
    found = [
        (report.nodeid.rpartition("::")[2], value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == RECOVERED and report.when == "call"
    ]
    if found:
        terminalreporter.section("outages")
    for test, seconds in found:
        terminalreporter.write_line(f"recovered after {seconds:.1f} s: {test}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the processes' logs with a failure."""
    report = yield
    deployment = getattr(item, "funcargs", {}).get("deployment")
    if report.failed and isinstance(deployment, Deployment):
        report.sections.append(("logs of the services", shown(deployment.stack.logs())))
    return report
