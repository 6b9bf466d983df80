"""What the client library raises, as the session service's own errors: translated here alone."""

from collections.abc import Mapping
from ssl import SSLCertVerificationError
from types import MappingProxyType
from typing import NamedTuple

from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's own name
    MaxConnectionsError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError as NoReplyError,
    TryAgainError,
)

from services.session.adapters.passing import REFUSED
from services.session.errors import ErrorType, StoreFull, StoreUnavailable
from services.session.observing import seen

_TYPES: tuple[tuple[tuple[type[BaseException], ...], ErrorType], ...] = (
    # The first that fits counts: to the library a refused login is a lost connection, too.
    (REFUSED, ErrorType.PERMISSION),
    ((MaxConnectionsError,), ErrorType.POOL_EXHAUSTED),
    ((OutOfMemoryError,), ErrorType.MEMORY),
    ((NoReplyError, TimeoutError), ErrorType.TIMEOUT),
    ((ConnectionError, OSError), ErrorType.CONNECTION),
    # What a failover looks like from here, and what a slot that moves.
    ((ReadOnlyError, ClusterDownError, AskError, TryAgainError), ErrorType.CONNECTION),
)


class _Said(NamedTuple):
    """What callers and operators are told."""

    problem: str
    advice: str
    retry_after: float = 1.0


_SAID: Mapping[ErrorType, _Said] = MappingProxyType(
    {
        ErrorType.TIMEOUT: _Said(
            "it did not answer in time",
            "retry; if it lasts, an operator looks at its load, or raises MAIEUTIC_REDIS_TIMEOUT",
        ),
        ErrorType.CONNECTION: _Said(
            "it cannot be reached",
            "retry; if it lasts, an operator looks whether the server of MAIEUTIC_REDIS_URL is up",
        ),
        ErrorType.PERMISSION: _Said(
            "it refuses this service's user, password or commands",
            "an operator corrects MAIEUTIC_REDIS_URL, or the rules of its user",
            retry_after=30.0,
        ),
        ErrorType.POOL_EXHAUSTED: _Said(
            "all connections to it are in use, or it takes too slowly what is sent",
            "retry; if it lasts, an operator adds replicas, or raises MAIEUTIC_REDIS_CONNECTIONS",
        ),
        ErrorType.UNKNOWN: _Said(
            "it refused a command", "retry; if it lasts, an operator finds its answer in the log"
        ),
    }
)
_NOT_TRUSTED = _Said(
    "its certificate is not trusted",
    "an operator corrects ssl_ca_certs in MAIEUTIC_REDIS_URL, or the server's certificate",
    retry_after=30.0,
)
_ELSEWHERE = _Said(
    "another server has what was asked for",
    "retry; if it lasts, an operator looks whether MAIEUTIC_REDIS_URL names the cluster, as "
    "redis+cluster://",
)


def refusal(error: Exception) -> StoreUnavailable | StoreFull:
    """Return what to raise for what the library raised or the server answered; it is seen here."""
    kind = _type_of(error)
    seen(kind, _cause(error))
    if kind is ErrorType.MEMORY:
        return StoreFull()
    said = _said(error, kind)
    return StoreUnavailable(
        said.problem, error_type=kind, advice=said.advice, retry_after=said.retry_after
    )


def _said(error: Exception, kind: ErrorType) -> _Said:
    if isinstance(error, SSLCertVerificationError):
        return _NOT_TRUSTED
    return _ELSEWHERE if isinstance(error, AskError | TryAgainError) else _SAID[kind]


def _type_of(error: Exception) -> ErrorType:
    fitting = (error_type for kinds, error_type in _TYPES if isinstance(error, kinds))
    return next(fitting, ErrorType.UNKNOWN)


def _cause(error: Exception) -> str:
    """Describe the error for the log; of the server's words the first, since others may quote."""
    kind = type(error).__name__
    if isinstance(error, ResponseError):
        code: str | None = error.status_code
        return f"{kind} {code or str(error).partition(' ')[0]}"
    return f"{kind} {error}".rstrip()
