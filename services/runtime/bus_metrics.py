"""What both adapters of the bus count, in the telemetry of the service that calls them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.runtime import names, telemetry
from services.runtime.bus import BusError


@contextmanager
def publishing(exchange: str) -> Iterator[None]:
    """Measure one publish from the call to its confirm or its error."""
    attributes = {names.BUS_OPERATION: "publish", names.BUS_DESTINATION: exchange}
    started = time.perf_counter()
    try:
        yield
    except BusError as error:
        attributes[names.ERROR_TYPE] = type(error).__name__
        raise
    finally:
        durations = telemetry.current().histogram(names.BUS_PUBLISH_DURATION)
        durations.record(time.perf_counter() - started, attributes)


def delivered(queue: str, *, again: bool) -> None:
    """Count a delivery that is handed to a consumer."""
    deliveries = telemetry.current().counter(names.BUS_DELIVERED)
    deliveries.add(1, {names.BUS_DESTINATION: queue, names.BUS_REDELIVERED: again})


def retrying(cause: str) -> None:
    """Count a further attempt to publish; `cause` is "lost" or "refused"."""
    telemetry.current().counter(names.BUS_RETRIES).add(1, {names.BUS_RETRY_CAUSE: cause})
