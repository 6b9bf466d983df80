"""Which spans are recorded, and what stands in for spans where none is exported."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import getrandbits

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Tracer,
    TraceState,
    get_current_span,
    use_span,
)
from opentelemetry.util.types import Attributes


class IdsOnly(Tracer):
    """Spans that only carry ids, for logs and peers: what a service without an exporter needs.

    A caller's trace passes through unchanged; work that nobody traces gets an id of its own.
    """

    def start_span(  # noqa: PLR0917 - the API's signature
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002 - the API's signature
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002 - the API's signature
    ) -> Span:
        """Return the ids of the parent, or new ones."""
        parent = get_current_span(context).get_span_context()
        return NonRecordingSpan(parent if parent.is_valid else new_context())

    @contextmanager
    def start_as_current_span(  # type: ignore[override] # noqa: PLR0917 - the API's signature
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002 - the API's signature
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002 - the API's signature
        end_on_exit: bool = True,  # noqa: FBT001, FBT002 - the API's signature
    ) -> Iterator[Span]:
        """Run the block under those ids."""
        running = get_current_span()
        if context is None and running.get_span_context().is_valid:
            yield running  # they are the running ones
            return
        span = self.start_span(name, context)
        with use_span(span, record_exception=False, set_status_on_exception=False):
            yield span


def new_context() -> SpanContext:
    """Return the ids of a trace that nobody records."""
    return SpanContext(getrandbits(128) or 1, getrandbits(64) or 1, is_remote=False)


def sampler(ratio: float) -> Sampler:
    """Record what the caller records, and of new traces a share of *ratio*, 0 to 1."""
    return ParentBased(_LinkedOrRatio(ratio))


class _LinkedOrRatio(Sampler):
    """Records a batch if any of what is in it is recorded: else its links would lead nowhere."""

    def __init__(self, ratio: float) -> None:
        self._ratio = TraceIdRatioBased(ratio)

    def should_sample(  # noqa: PLR0917 - the API's signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """See `Sampler.should_sample`."""
        if any(link.context.trace_flags.sampled for link in links or ()):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._ratio.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        """See `Sampler.get_description`."""
        return f"LinkedOr{self._ratio.get_description()}"
