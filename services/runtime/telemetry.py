"""Traces and metrics of one service, and its trace context across gRPC and the bus.

Nothing here is process-wide: `telemetry()` binds the service's providers to the running context,
and tasks started inside inherit it, so five services in one process stay apart.
"""

import asyncio
from collections.abc import (
    AsyncIterator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import (
    Counter,
    Histogram,
    Meter,
    NoOpMeterProvider,
    UpDownCounter,
    _Gauge as Gauge,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from services.runtime import names
from services.runtime.logs import LogOptions, logging_to_stderr
from services.runtime.tracers import IdsOnly, new_context, sampler

SCOPE = "maieutic"
EXPORT_SECONDS = 3.0
"""Limit of one export with its retries, and so of what a collector that is away costs a stop."""
SPAN_SECONDS = 1.0
"""Spans leave at least this often, so that little is missing of a process that is killed."""
TRACE_ID_END = 35
"""Of a traceparent, which begins with a version of two digits and a trace id of 32."""
_W3C = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryOptions:
    """Where a service's traces, metrics and logs go."""

    endpoint: str = ""
    """OTLP gRPC endpoint, as http://collector:4317; empty exports nothing."""

    sample_ratio: float = 1.0
    """Share of new traces that is recorded, 0 to 1; a caller's decision is followed."""

    metric_interval: float = 30.0
    """Seconds between two exports of metrics."""

    metrics_listen: str = ""
    """host:port of an HTTP endpoint for Prometheus, as 127.0.0.1:9464; empty serves none."""

    version: str = ""
    """Version of the deployment, as traces show it."""

    log: LogOptions = field(default=LogOptions())
    """Level and form of the log on standard error."""


class Telemetry:
    """One service's tracer and instruments; each instrument is made once."""

    def __init__(self, service: str, tracer: Tracer, meter: Meter) -> None:
        self.service = service
        self.tracer = tracer
        self._meter = meter
        self._counters: dict[str, Counter] = {}
        self._levels: dict[str, UpDownCounter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}

    def counter(self, metric: names.Metric) -> Counter:
        """Return the counter, for what only grows."""
        if (known := self._counters.get(metric.name)) is None:
            known = self._meter.create_counter(metric.name, metric.unit, metric.help)
            self._counters[metric.name] = known
        return known

    def level(self, metric: names.Metric) -> UpDownCounter:
        """Return the up-down counter, for what comes and goes."""
        if (known := self._levels.get(metric.name)) is None:
            known = self._meter.create_up_down_counter(metric.name, metric.unit, metric.help)
            self._levels[metric.name] = known
        return known

    def gauge(self, metric: names.Metric) -> Gauge:
        """Return the gauge, for what is measured anew each time."""
        if (known := self._gauges.get(metric.name)) is None:
            known = self._meter.create_gauge(metric.name, metric.unit, metric.help)
            self._gauges[metric.name] = known
        return known

    def histogram(self, metric: names.Metric) -> Histogram:
        """Return the histogram, with the metric's own buckets."""
        if (known := self._histograms.get(metric.name)) is None:
            known = self._meter.create_histogram(
                metric.name,
                metric.unit,
                metric.help,
                explicit_bucket_boundaries_advisory=metric.buckets,
            )
            self._histograms[metric.name] = known
        return known


NOTHING = Telemetry(
    "", NoOpTracerProvider().get_tracer(SCOPE), NoOpMeterProvider().get_meter(SCOPE)
)
_current: ContextVar[Telemetry] = ContextVar("maieutic_telemetry", default=NOTHING)


def current() -> Telemetry:
    """Return the running service's telemetry; outside of one, telemetry that records nothing."""
    return _current.get()


@asynccontextmanager
async def telemetry(
    service: str,
    options: TelemetryOptions,
    *,
    span_processors: Sequence[SpanProcessor] = (),
    metric_readers: Sequence[MetricReader] = (),
) -> AsyncIterator[Telemetry]:
    """Give the block, and the tasks it starts, the telemetry of *service*; flushed at the end.

    *span_processors* and *metric_readers* come beside those that the options ask for.
    """
    processors, readers = list(span_processors), list(metric_readers)
    async with AsyncExitStack() as stack:
        if options.endpoint:
            spans, metrics = _otlp(options)
            processors.append(spans)
            readers.append(metrics)
        if options.metrics_listen:
            readers.append(await _scraped(stack, options.metrics_listen))
        resource = Resource.create({names.SERVICE: service, "service.version": options.version})
        tracers = _tracers(resource, options, processors)
        meters = MeterProvider(readers, resource=resource) if readers else None
        bound = Telemetry(
            service,
            tracers.get_tracer(SCOPE) if tracers else IdsOnly(),
            (meters or NoOpMeterProvider()).get_meter(SCOPE),
        )
        token = _current.set(bound)
        try:
            with logging_to_stderr(options.log, service=service):
                yield bound
        finally:
            _current.reset(token)
            # Both flush what they hold, in threads, side by side: a collector may be away.
            ends = [provider.shutdown for provider in (tracers, meters) if provider]
            await asyncio.gather(*map(asyncio.to_thread, ends))


def _tracers(
    resource: Resource, options: TelemetryOptions, processors: Sequence[SpanProcessor]
) -> TracerProvider | None:
    if not processors:
        return None
    tracers = TracerProvider(resource=resource, sampler=sampler(options.sample_ratio))
    for processor in processors:
        tracers.add_span_processor(processor)
    return tracers


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
    parent: Context | None = None,
    links: Sequence[Link] = (),
    failures: tuple[type[Exception], ...] = (Exception,),
) -> Iterator[Span]:
    """Run the block in a span; one of *failures* marks it as failed, by its type alone.

    The message of an exception may quote a user, so it never gets into a span. A cancelled block
    is not a failed one.
    """
    with current().tracer.start_as_current_span(
        name,
        context=parent,
        kind=kind,
        attributes=attributes,
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except failures as error:
            mark_failed(opened, type(error).__qualname__)
            raise


@contextmanager
def span_aside(
    name: str, *, kind: SpanKind, attributes: Mapping[str, AttributeValue]
) -> Iterator[Span]:
    """Like `span`, for a block that other code runs in between, as a stream's: not the running one.

    Otherwise it would be the parent of whatever the reader of the stream does.
    """
    opened = current().tracer.start_span(name, kind=kind, attributes=attributes)
    try:
        yield opened
    # As in `span`: whatever it is, it is raised again.
    except Exception as error:
        mark_failed(opened, type(error).__qualname__)
        raise
    finally:
        opened.end()


def mark_failed(failed: Span, error_type: str) -> None:
    """Give the span the status ERROR with a type from a small fixed set."""
    failed.set_attribute(names.ERROR_TYPE, error_type)
    failed.set_status(Status(StatusCode.ERROR, error_type))


def inject(headers: MutableMapping[str, str], of: Span | None = None) -> None:
    """Write the trace context of the span, by default the running one, into *headers*."""
    _W3C.inject(headers, None if of is None else set_span_in_context(of))


def extract(headers: Mapping[str, str]) -> Context:
    """Return the trace context that *headers* carry, to be a span's parent; empty without one."""
    return _W3C.extract(headers, Context())


def traceparent() -> str:
    """Return the running span as W3C text; empty if it is not recorded."""
    headers: dict[str, str] = {}
    if get_current_span().get_span_context().trace_flags.sampled:
        inject(headers)
    return headers.get("traceparent", "")


def here_or(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the running span's context if it is in the trace of *headers*, else *headers*."""
    running: dict[str, str] = {}
    inject(running)
    return running if _trace_id(running) == _trace_id(headers) else headers


def _trace_id(headers: Mapping[str, str]) -> str:
    return headers.get("traceparent", "")[:TRACE_ID_END]


@contextmanager
def continuing(headers: Mapping[str, str]) -> Iterator[None]:
    """Run the block in the trace that *headers* carry; without one, in none."""
    token = attach(set_span_in_context(get_current_span(extract(headers))))
    try:
        yield
    finally:
        detach(token)


@contextmanager
def untraced() -> Iterator[None]:
    """Let calls made in the block begin no trace: a stream for life would be an endless one."""
    token = attach(set_span_in_context(NonRecordingSpan(new_context())))
    try:
        yield
    finally:
        detach(token)


def links_to(headers: Mapping[str, str]) -> list[Link]:
    """Return a link to the span that sent *headers*, as a consumer of a batch needs it."""
    context = get_current_span(extract(headers)).get_span_context()
    return [Link(context)] if context.is_valid else []


def link_to(traceparents: Iterable[str]) -> None:
    """Link the running span to others, given as W3C text."""
    running = get_current_span()
    for link in [one for text in traceparents for one in links_to({"traceparent": text})]:
        running.add_link(link.context)


async def _scraped(stack: AsyncExitStack, listen: str) -> MetricReader:
    # Imported here because most processes of a test serve no metrics.
    from services.runtime.scraping import metrics_endpoint  # noqa: PLC0415

    return (await stack.enter_async_context(metrics_endpoint(listen))).reader()


def _otlp(options: TelemetryOptions) -> tuple[SpanProcessor, MetricReader]:
    # Imported here because it costs a tenth of a second that most starts do not need.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
        OTLPMetricExporter,
    )
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    plain = options.endpoint.startswith("http://")
    endpoint, timeout = options.endpoint, EXPORT_SECONDS
    spans = OTLPSpanExporter(endpoint=endpoint, insecure=plain, timeout=timeout)
    metrics = OTLPMetricExporter(endpoint=endpoint, insecure=plain, timeout=timeout)
    interval = options.metric_interval * 1000
    batches = BatchSpanProcessor(spans, schedule_delay_millis=SPAN_SECONDS * 1000)
    return batches, PeriodicExportingMetricReader(metrics, interval)
