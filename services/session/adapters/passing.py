"""What a store says while its primary changes or a slot moves, and what ends with a second try."""

from ssl import SSLCertVerificationError
from typing import Any

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's own name
    MaxConnectionsError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own name
    TryAgainError,
)

_ELSEWHERE = (AskError, TryAgainError)  # of which a MovedError is one
_NOT_NOW = (ClusterDownError, ReadOnlyError, BusyLoadingError)  # and a MasterDownError one of these
_UNREACHED = (ConnectionError, TimeoutError, OSError)
REFUSED = (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
)
"""A second try ends the same way: an operator has to act."""


class NotAsked(ConnectionError):
    """The server has not answered for so long that it is only probed."""


_NOT_ITS_FAULT = (*REFUSED, MaxConnectionsError)
_FINAL = (*REFUSED, SSLCertVerificationError, NotAsked)


def is_passing(reply: Any) -> bool:
    """Whether a reply says: not here, or not now; nothing was carried out."""
    return isinstance(reply, _ELSEWHERE + _NOT_NOW) or (
        isinstance(reply, ResponseError) and str(reply).startswith("NOREPLICAS")
    )


def is_worth_another_try(error: BaseException) -> bool:
    """Whether the same may succeed in a moment, perhaps at another server."""
    return (isinstance(error, _UNREACHED) and not isinstance(error, _FINAL)) or is_passing(error)


def is_failure(error: Any) -> bool:
    """Whether the server itself is out of order, rather than no longer the right one."""
    return isinstance(error, _NOT_NOW + _UNREACHED) and not isinstance(error, _NOT_ITS_FAULT)


def ends_link(error: BaseException) -> bool:
    """Whether the other links to the server are of no use either.

    A server that takes longer than it may answers nobody, and one that was made a replica serves
    nobody here.
    """
    return isinstance(error, TimeoutError | ReadOnlyError)


def nobody(problem: str, last: BaseException | None) -> ConnectionError:
    """Return the error for servers of which none serves, the *last* one because of that.

    Where that is a wrong password, the others will hardly want another one.
    """
    kind = AuthenticationError if isinstance(last, REFUSED) else ConnectionError
    return kind(problem)


def explained(error: BaseException) -> str:
    """Return what a server said, or what was in its way."""
    return str(error) or type(error).__name__
