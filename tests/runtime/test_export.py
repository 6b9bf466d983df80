"""Traces and metrics reach an OTLP collector, and a collector that is away holds nothing up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from services.runtime import names
from services.runtime.telemetry import TelemetryOptions, current, span, telemetry


class Collector:
    """An OTLP collector that keeps what it gets."""

    def __init__(self) -> None:
        self.traces: list[Any] = []
        self.metrics: list[Any] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Collect during the block; gives the endpoint."""
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self._traces(), self._metrics()))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"http://127.0.0.1:{port}"
        await server.stop(0)

    def _traces(self) -> Any:
        async def export(request: ExportTraceServiceRequest, context: Any) -> Any:
            self.traces.extend(request.resource_spans)
            return ExportTraceServiceResponse()

        return _handler(
            "opentelemetry.proto.collector.trace.v1.TraceService",
            export,
            ExportTraceServiceRequest,
        )

    def _metrics(self) -> Any:
        async def export(request: ExportMetricsServiceRequest, context: Any) -> Any:
            self.metrics.extend(request.resource_metrics)
            return ExportMetricsServiceResponse()

        return _handler(
            "opentelemetry.proto.collector.metrics.v1.MetricsService",
            export,
            ExportMetricsServiceRequest,
        )


def _handler(service: str, export: Any, request: Any) -> Any:
    method: Any = grpc.unary_unary_rpc_method_handler(
        export, request.FromString, lambda response: response.SerializeToString()
    )
    return grpc.method_handlers_generic_handler(service, {"Export": method})


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
