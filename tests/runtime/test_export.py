"""Traces and metrics reach an OTLP collector, and a collector that is away holds nothing up."""

import asyncio

from services.runtime import names
from services.runtime.telemetry import TelemetryOptions, current, span, telemetry
from tests.collector import Collector


async def record_at(endpoint: str) -> None:
    """Be a service that records one span and one count."""
    async with telemetry("session", TelemetryOptions(endpoint=endpoint, version="1.2")):
        with span("work"):
            current().counter(names.UNEXPECTED_ERRORS).add(1)


async def test_what_was_recorded_reaches_the_collector_before_the_service_ends() -> None:
    collector = Collector()

    async with collector.serving() as endpoint:
        await record_at(endpoint)

    (spans,), (metrics,) = collector.traces, collector.metrics
    for resource in (spans.resource, metrics.resource):
        attributes = {one.key: one.value.string_value for one in resource.attributes}
        assert attributes["service.name"] == "session"
        assert attributes["service.version"] == "1.2"
    assert [one.name for one in spans.scope_spans[0].spans] == ["work"]
    found = {one.name for one in metrics.scope_metrics[0].metrics}
    assert names.UNEXPECTED_ERRORS.name in found


async def test_a_collector_that_is_away_does_not_keep_the_service_from_stopping() -> None:
    await asyncio.wait_for(record_at("http://127.0.0.1:9"), 12)
