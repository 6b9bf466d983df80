"""A batch in the traces of all the messages in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import Link, Span, SpanKind

from services.runtime import names, telemetry
from services.runtime.bus import Delivery


@contextmanager
def archiving(batch: Sequence[Delivery]) -> Iterator[None]:
    """Run the block in a span for the batch, which has no one parent: it links to all messages.

    Each message has a span of its own beside it, the child of the one that published it and linked
    to the batch: so a turn's trace reaches its row.
    """
    links = [link for delivery in batch for link in telemetry.links_to(delivery.headers)]
    attributes = {names.BATCH_SIZE: len(batch)}
    with telemetry.span(
        names.ARCHIVE_BATCH, kind=SpanKind.CONSUMER, links=links, attributes=attributes
    ) as span:
        spans = [_of(one, span) for one in batch] if span.is_recording() else []
        try:
            yield
        finally:
            for one in spans:
                one.end()


def _of(delivery: Delivery, batch: Span) -> Span:
    return telemetry.current().tracer.start_span(
        names.ARCHIVE_FACT.format(delivery.routing_key),
        context=telemetry.extract(delivery.headers),
        kind=SpanKind.CONSUMER,
        links=[Link(batch.get_span_context())],
        attributes={
            names.BUS_ROUTING_KEY: delivery.routing_key,
            names.BUS_MESSAGE_ID: delivery.message_id,
            names.BUS_OPERATION_TYPE: "process",
            names.BUS_REDELIVERED: delivery.delivery_count > 0,
        },
    )
