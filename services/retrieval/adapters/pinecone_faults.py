"""What goes wrong between here and Pinecone, and what that means: retry, give up, which error.

Classified by the exception's type first. Closed handles are plain RuntimeErrors in some versions
of the SDK and of its transports, so their known texts are a second net.
"""

import math
from dataclasses import dataclass
from enum import Enum

import httpx
from pinecone import (
    ApiError,
    ForbiddenError,
    NotFoundError,
    PaymentRequiredError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
    RateLimitError,
    ResponseParsingError,
    ServiceError as BrokenService,
    UnauthorizedError,
)

from services.retrieval.errors import IndexDamaged, IndexRefused, IndexUnavailable
from services.runtime.errors import ServiceError

FOREIGN = (PineconeError, httpx.HTTPError, httpx.StreamError, RuntimeError, OSError)
"""What the SDK and its transport may raise. TimeoutError is an OSError; a RuntimeError may as well
be a bug of ours, see `fault_of`."""
CLOSED = (
    "client has been closed",
    "session is closed",
    "connector is closed",
    "transport is closed",
    "handler is closed",
    "connection closed",
    "connection is closed",
    "connection pool is closed",
    "server disconnected",
    "event loop is closed",
)
REQUEST_TIMEOUT, TURNED_AWAY = 408, 503


class Kind(Enum):
    """What happened to an attempt, as the metric names it."""

    LOST = "lost"
    TIMEOUT = "timeout"
    THROTTLED = "throttled"
    BUSY = "busy"
    BROKEN = "broken"
    DENIED = "denied"
    GONE = "gone"
    REFUSED = "refused"


NOT_BEGUN = frozenset({Kind.LOST, Kind.THROTTLED, Kind.BUSY})
"""What cost the other side next to nothing: it says nothing about the request."""
RETRIED = NOT_BEGUN | {Kind.TIMEOUT, Kind.BROKEN}
AGAINST_HOST = frozenset({Kind.LOST, Kind.TIMEOUT, Kind.BUSY, Kind.BROKEN})
"""What speaks against the host. A limited or refused request was answered, so the host lives."""
SPOKEN = {
    Kind.LOST: "the connection to the vector index was lost",
    Kind.TIMEOUT: "the vector index did not answer in time",
    Kind.THROTTLED: "the vector index takes no more requests at the moment",
    Kind.BUSY: "the vector index turns requests away at the moment",
    Kind.BROKEN: "the vector index is broken at the moment",
    Kind.DENIED: "the vector index does not accept this service's key",
    Kind.GONE: "the vector index does not exist any more",
    Kind.REFUSED: "the vector index refuses the request",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A failed attempt."""

    kind: Kind
    retry_after: float | None = None
    """Seconds that the index asked to wait."""

    def error(self) -> ServiceError:
        """Return the domain error of an operation that ends with this fault.

        What Pinecone wrote may quote the request, so it stays in the cause, for logs only.
        """
        message = SPOKEN[self.kind]
        if self.kind is Kind.GONE:
            return IndexDamaged(message)
        if self.kind in {Kind.REFUSED, Kind.DENIED}:
            return IndexRefused(message)
        return IndexUnavailable(message, retry_after=self.retry_after)


def fault_of(error: Exception) -> Fault | None:
    """Return what the exception means; None for one that is a bug, to be raised on."""
    kind = _kind(error)
    return None if kind is None else Fault(kind=kind, retry_after=_retry_after(error))


def _kind(error: Exception) -> Kind | None:
    if isinstance(error, ApiError):
        return _answered(error)
    if isinstance(error, (PineconeTimeoutError, httpx.TimeoutException, TimeoutError)):
        return Kind.TIMEOUT
    if isinstance(error, (PineconeConnectionError, httpx.TransportError, httpx.StreamError)):
        return Kind.LOST
    if isinstance(error, ResponseParsingError):
        # Half an answer, or a proxy's page in its place.
        return Kind.BROKEN
    if isinstance(error, OSError):
        return Kind.LOST
    return _by_text(error)


def _retry_after(error: Exception) -> float | None:
    """Return the seconds of the header; a date is not read, as Pinecone sends none."""
    headers = error.headers if isinstance(error, ApiError) else None
    try:
        seconds = float((headers or {})["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < math.inf else None


def _answered(error: ApiError) -> Kind:
    if isinstance(error, RateLimitError):
        return Kind.THROTTLED
    if isinstance(error, BrokenService):
        return Kind.BUSY if error.status_code == TURNED_AWAY else Kind.BROKEN
    if error.status_code == REQUEST_TIMEOUT:
        return Kind.TIMEOUT
    if isinstance(error, (UnauthorizedError, ForbiddenError, PaymentRequiredError)):
        return Kind.DENIED
    return Kind.GONE if isinstance(error, NotFoundError) else Kind.REFUSED


def _by_text(error: Exception) -> Kind | None:
    text = str(error).lower()
    if any(closed in text for closed in CLOSED):
        return Kind.LOST
    return Kind.REFUSED if isinstance(error, PineconeError) else None


def is_no_namespace(error: NotFoundError) -> bool:
    """Tell whether it is only the namespace that is missing, because nothing was stored in it."""
    return "namespace" in str(error).lower()
