"""What both adapters of the bus record, in the telemetry of the service that calls them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import SpanKind

from services.runtime import names, telemetry
from services.runtime.bus import BusError, OutgoingMessage


@contextmanager
def publishing(message: OutgoingMessage, *, system: str) -> Iterator[dict[str, str]]:
    """Record one publish from the call to its confirm or its error; gives the headers to send."""
    exchange = message.exchange
    attributes = {names.BUS_OPERATION: "publish", names.BUS_DESTINATION: exchange}
    started = time.perf_counter()
    try:
        with _producing(message, {**attributes, names.BUS_SYSTEM: system}) as headers:
            yield headers
    except BusError as error:
        attributes[names.ERROR_TYPE] = type(error).__name__
        telemetry.current().counter(names.BUS_FAILURES).add(1, attributes)
        raise
    finally:
        durations = telemetry.current().histogram(names.BUS_PUBLISH_DURATION)
        durations.record(time.perf_counter() - started, attributes)


@contextmanager
def _producing(message: OutgoingMessage, attributes: dict[str, str]) -> Iterator[dict[str, str]]:
    name = names.PUBLISH.format(message.exchange)
    with telemetry.span(name, kind=SpanKind.PRODUCER, attributes=attributes) as span:
        if span.is_recording():
            span.set_attribute(names.BUS_ROUTING_KEY, message.routing_key)
            span.set_attribute(names.BUS_MESSAGE_ID, message.message_id)
            span.set_attribute(names.BUS_OPERATION_TYPE, "send")
        headers = dict(message.headers)
        telemetry.inject(headers)
        yield headers


def delivered(queue: str, *, again: bool) -> None:
    """Count a delivery that is handed to a consumer."""
    deliveries = telemetry.current().counter(names.BUS_DELIVERED)
    deliveries.add(1, {names.BUS_DESTINATION: queue, names.BUS_REDELIVERED: again})


def retrying(cause: str) -> None:
    """Count a further attempt to publish; `cause` is "lost" or "refused"."""
    telemetry.current().counter(names.BUS_RETRIES).add(1, {names.BUS_RETRY_CAUSE: cause})
