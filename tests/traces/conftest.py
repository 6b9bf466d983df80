"""A deployment that exports everything, and the collector that it exports to."""

import asyncio
from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from maieutic_client import Maieutic
from tests.backends.postgres import PostgresServer
from tests.backends.process import free_port
from tests.backends.rabbitmq import RabbitNode
from tests.collector import Collector
from tests.faults.steps import scripted
from tests.stack import SERVICES, TIMING, RealStack, real_stack, shown
from tests.traces.observed import Observed

UNHURRIED = {
    "session": {"SWEEP_INTERVAL": "0.2", "PUBLISH_GRACE": "60", "ARCHIVE_GRACE": "60"},
    "agents": TIMING["agents"],
}
"""On a busy machine, too, nothing is published a second time: that would be a second span."""


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def observed(
    rabbit_node: RabbitNode, postgres_server: PostgresServer
) -> AsyncIterator[Observed]:
    collector = Collector()
    pages = {service: f"127.0.0.1:{free_port()}" for service in SERVICES}
    async with collector.serving() as endpoint:
        exported = {
            service: {
                **UNHURRIED.get(service, {}),
                "TELEMETRY_ENDPOINT": endpoint,
                "TELEMETRY_METRICS_LISTEN": pages[service],
                "TELEMETRY_LOG_FORM": "json",
            }
            for service in SERVICES
        }
        async with real_stack(rabbit_node, postgres_server, settings=exported) as stack:
            await _all_connected(stack)
            yield Observed(stack=stack, collector=collector, endpoint=endpoint, pages=pages)


async def _all_connected(stack: RealStack) -> None:
    """Run a turn that needs everybody: until they have found each other, calls are made twice."""
    async with stack.client() as client:
        document = (await client.documents.add("warm.md", b"# Warm")).document
        session = await client.sessions.create(document_ids=[document.document_id])
        async with client.turns.stream(session.session_id, scripted()) as stream:
            await stream.result()


@pytest_asyncio.fixture(loop_scope="package")
async def client(observed: Observed) -> AsyncIterator[Maieutic]:
    """A caller that is traced, too."""
    exporter = OTLPSpanExporter(endpoint=observed.endpoint, insecure=True)
    provider = TracerProvider(resource=Resource.create({"service.name": "client"}))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=100))
    stack = observed.stack
    async with Maieutic.connect(
        stack.address("gateway"), api_key=stack.api_key, tracer_provider=provider
    ) as connected:
        yield connected
    await asyncio.to_thread(provider.shutdown)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the processes' logs with a failure."""
    report = yield
    found = getattr(item, "funcargs", {}).get("observed")
    stack = found.stack if isinstance(found, Observed) else None
    if report.failed and isinstance(stack, RealStack):
        report.sections.append(("logs of the services", shown(stack.logs())))
    return report
