"""What a service records, kept in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.runtime import names
from services.runtime.telemetry import TelemetryOptions, telemetry


class Recorded:
    """What a service recorded."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()

    def spans(self) -> dict[str, ReadableSpan]:
        """Return the finished spans by kind and name."""
        finished = self.exporter.get_finished_spans()
        return {f"{one.kind.name} {one.name}": one for one in finished}

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the finished spans of that name, in the order they ended."""
        return [one for one in self.exporter.get_finished_spans() if one.name == name]

    def points(self, metric: names.Metric, *attributes: str) -> dict[tuple[Any, ...], Any]:
        """Return the metric's points by their values of the attributes."""
        data = self.reader.get_metrics_data()
        found = [
            point
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name == metric.name
            for point in one.data.data_points
        ]
        return {
            tuple((point.attributes or {}).get(key) for key in attributes): point for point in found
        }


@asynccontextmanager
async def recording(service: str = "test", ratio: float = 1.0) -> AsyncIterator[Recorded]:
    recorded = Recorded()
    async with telemetry(
        service,
        TelemetryOptions(sample_ratio=ratio),
        span_processors=[SimpleSpanProcessor(recorded.exporter)],
        metric_readers=[recorded.reader],
    ):
        yield recorded


def span_id(one: ReadableSpan) -> int:
    return one.get_span_context().span_id  # type: ignore[union-attr,no-any-return,unused-ignore]
