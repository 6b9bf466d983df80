"""An OTLP collector: what it got, and how spans hang together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A span, and who sent it."""

    service: str
    span: Span

    def __str__(self) -> str:
        kind = Span.SpanKind.Name(self.span.kind).removeprefix("SPAN_KIND_")
        return f"{self.service} {kind} {self.span.name}"

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def links(self) -> set[bytes]:
        """The ids of the spans that it links to."""
        return {link.span_id for link in self.span.links}

    @property
    def failed(self) -> bool:
        return self.span.status.code == Status.STATUS_CODE_ERROR

    def attribute(self, name: str) -> Any:
        """Return an attribute's value, None without it."""
        for one in self.span.attributes:
            if one.key == name:
                return getattr(one.value, str(one.value.WhichOneof("value")))
        return None


def parent_of(one: Received, spans: Sequence[Received]) -> Received | None:
    return next((up for up in spans if up.span.span_id == one.span.parent_span_id), None)


def ancestry(one: Received, spans: Sequence[Received]) -> list[str]:
    """Return the span and those above it, the outermost last."""
    chain, here = [], parent_of(one, spans)
    while here is not None:
        chain.append(str(here))
        here = parent_of(here, spans)
    return [str(one), *chain]


def children_of(one: Received, spans: Sequence[Received]) -> list[Received]:
    return [down for down in spans if down.span.parent_span_id == one.span.span_id]


def tree(one: Received, spans: Sequence[Received], depth: int = 0) -> str:
    """Return the span and those below it, indented."""
    below = [tree(down, spans, depth + 1) for down in children_of(one, spans)]
    return "\n".join(["  " * depth + str(one), *below])


def _service(resource: ResourceSpans) -> str:
    names = (one.value.string_value for one in resource.resource.attributes if one.key == KEY)
    return next(names, "")


KEY = "service.name"


class Collector:
    """An OTLP collector that keeps what it gets."""

    def __init__(self) -> None:
        self.traces: list[ResourceSpans] = []
        self.metrics: list[ResourceMetrics] = []

    def spans(self) -> list["Received"]:
        """Return every span that has come, in the order they began."""
        found = [
            Received(service=_service(resource), span=span)
            for resource in self.traces
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(found, key=lambda one: one.span.start_time_unix_nano)

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
