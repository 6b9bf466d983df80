"""Spans of the client's calls, where OpenTelemetry's API is installed; the gateway goes on."""

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

Metadata = tuple[tuple[str, str], ...]


class CallSpan(Protocol):
    """One logical call, with all of its tries."""

    @property
    def metadata(self) -> Metadata:
        """What each try carries."""
        ...

    def end(self, failure: str = "") -> None:
        """Say that the call is over, and how it failed, if it has; only the first time counts."""
        ...


class _Untraced:
    """For a process without OpenTelemetry."""

    metadata: Metadata = ()

    def end(self, failure: str = "") -> None:
        pass


class _Traced:
    def __init__(self, span: "Span", metadata: Metadata) -> None:
        self.metadata = metadata
        self._span = span
        self._open = True

    def end(self, failure: str = "") -> None:
        if not self._open:
            return
        self._open = False
        if failure and self._span.is_recording():
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - see Tracing

            self._span.set_attribute("error.type", failure)
            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()


class Tracing:
    """Starts the spans, with the provider that was given or the process's own."""

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider

    def started(self, request: Message) -> CallSpan:
        """Return the span of the call that *request* is sent with, a child of the running one."""
        try:  # not a dependency: a caller who wants traces has it
            from opentelemetry import trace  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
                TraceContextTextMapPropagator,
            )
        except ImportError:
            return _Untraced()
        tracer = trace.get_tracer("maieutic_client", tracer_provider=self._provider)
        method = _method(request.DESCRIPTOR)
        span = tracer.start_span(
            method,
            kind=trace.SpanKind.CLIENT,
            attributes={"rpc.system.name": "grpc", "rpc.method": method},
        )
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
        return _Traced(span, tuple(headers.items()))


@lru_cache(maxsize=64)
def _method(request: Descriptor) -> str:
    """Return service/method of the method that takes such requests; each has a type of its own."""
    return next(
        f"{service.full_name}/{method.name}"
        for service in request.file.services_by_name.values()
        for method in service.methods
        if method.input_type is request
    )
