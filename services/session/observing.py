"""What is seen of the session store's work: for which operation, how long, and what went wrong."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import MappingProxyType

from opentelemetry.trace import get_current_span

from services.runtime import names, telemetry
from services.session.errors import ErrorType

_log = logging.getLogger(__name__)


class StoreOperation(StrEnum):
    """What the store is asked for the sake of."""

    CREATE = "create"
    GET = "get"
    UPDATE = "update"
    REFRESH = "refresh"
    DELETE = "delete"
    LIST = "list"
    TURN = "turn"
    EVENTS = "events"


_running: ContextVar[StoreOperation] = ContextVar(
    # What runs in no call, as the clock of unfinished work does, is there for turns.
    "maieutic_store_operation",
    default=StoreOperation.TURN,
)
_LABELS = MappingProxyType({of: {names.STORE_OPERATION: of.value} for of in StoreOperation})
_CALLERS_FAULT = frozenset({ErrorType.NOT_FOUND, ErrorType.INVALID_ID})


@contextmanager
def operating(operation: StoreOperation) -> Iterator[None]:
    """Let what the block asks of the store count as this operation."""
    token = _running.set(operation)
    try:
        yield
    finally:
        _running.reset(token)


def operation_labels() -> dict[str, str]:
    """Return the running operation as a metric's attributes."""
    return dict(_LABELS[_running.get()])


@contextmanager
def timed() -> Iterator[None]:
    """Record how long the block takes, however it ends."""
    started = time.perf_counter()
    try:
        yield
    finally:
        histogram = telemetry.current().histogram(names.STORE_DURATION)
        histogram.record(time.perf_counter() - started, _LABELS[_running.get()])


def messages_loaded(session_id: str, *, from_window: int, from_archive: int) -> None:
    """Say in the log and on the running span what a request has before it of its session."""
    loaded = {names.FROM_WINDOW: from_window, names.FROM_ARCHIVE: from_archive}
    get_current_span().set_attributes(loaded)
    extra = {"session": session_id, "from_window": from_window, "from_archive": from_archive}
    _log.info("%d messages loaded", from_window + from_archive, extra=extra)


def seen(error_type: ErrorType, cause: str = "") -> None:
    """Count and log that something went wrong, once, where it is found out.

    *cause* is for the log alone: it may name addresses, never what a user wrote.
    """
    operation = _running.get()
    labels = {names.STORE_OPERATION: operation.value, names.STORE_ERROR_TYPE: error_type.value}
    telemetry.current().counter(names.STORE_ERRORS).add(1, labels)
    level = logging.INFO if error_type in _CALLERS_FAULT else logging.WARNING
    extra = {**labels, "cause": cause} if cause else labels
    _log.log(level, "session store: %s in %s", error_type, operation, extra=extra)
