"""Domain errors, and the one table that turns them into gRPC statuses.

    ServiceError
    ├─ InvalidArgument      a field is wrong: says which, and how to put it right
    ├─ Unauthenticated      no or bad credentials
    ├─ PermissionDenied     good credentials, not for this
    ├─ NotFound             there is none, or it belongs to somebody else
    ├─ AlreadyExists        the name or the request id is taken
    ├─ FailedPrecondition   not in this state
    ├─ Aborted              somebody else was faster: read again, try again
    ├─ ResourceExhausted    over a limit: wait, then try again
    ├─ Unavailable          a part is away: wait, then try again
    ├─ DeadlineExceeded     the caller's time is spent
    ├─ Cancelled            a peer gave the call up
    ├─ DataLoss             stored data cannot be read
    ├─ Unimplemented        the peer does not know the method
    └─ Internal             a bug

Services subclass these kinds. An error crosses a process boundary as a `google.rpc.Status` with
typed details, and `from_rpc` makes the same kind of error of it again.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Self, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

DOMAIN = "maieutic"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
TRANSPORT_MESSAGE = "a part of the service did not answer"

M = TypeVar("M", bound=Message)


class ServiceError(Exception):
    """An error whose message may be shown to the caller.

    `reason` is a stable UPPER_SNAKE name for programs, `retry_after` the seconds after which
    another try makes sense, `extra` further typed details.
    """

    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float | None = None,
        extra: Iterable[Message] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.retry_after = retry_after
        self.relayed = False
        """True for a service's error passed on, which keeps its details as they came."""
        self.transport = False
        """True if gRPC itself made the error: its message names addresses, for logs only."""
        self._extra = tuple(extra)

    def details(self) -> list[Message]:
        """Return the typed details: ErrorInfo first, then the kind's own, RetryInfo last."""
        if self.relayed:
            return list(self._extra)
        details: list[Message] = [ErrorInfo(reason=self.reason, domain=DOMAIN), *self._extra]
        if self.retry_after is not None:
            details.append(RetryInfo(retry_delay=_duration(self.retry_after)))
        return details

    @classmethod
    def received(cls, message: str, details: Sequence[AnyMessage]) -> Self:
        """Make an error of this kind from what a peer sent; its details stay as they came."""
        info, retry = _find(details, ErrorInfo), _find(details, RetryInfo)
        error = cls.__new__(cls)
        ServiceError.__init__(
            error,
            message,
            reason=info.reason if info else None,
            retry_after=retry.retry_delay.ToMicroseconds() / 1e6 if retry else None,
            extra=details,
        )
        # Without an ErrorInfo it was gRPC that failed, not a service of ours.
        error.relayed, error.transport = info is not None, info is None
        return error


class InvalidArgument(ServiceError):
    """A field of the request is wrong: names the field, the problem and the fix."""

    default_reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str, *, reason: str | None = None) -> None:
        super().__init__(
            f"{field}: {problem}", reason=reason, extra=[_bad_request({field: problem})]
        )

    @classmethod
    def fields(cls, problems: Mapping[str, str], *, reason: str | None = None) -> Self:
        """Report several fields at once, as field path to problem."""
        error = cls.__new__(cls)
        message = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
        ServiceError.__init__(error, message, reason=reason, extra=[_bad_request(problems)])
        return error


class NotFound(ServiceError):
    """There is no such thing, or it is another tenant's."""

    default_reason = "NOT_FOUND"

    def __init__(self, kind: str, id: str, *, reason: str | None = None) -> None:  # noqa: A002 - the caller's own word
        super().__init__(
            f"{kind} {id!r} does not exist",
            reason=reason or f"{kind.upper().replace(' ', '_')}_NOT_FOUND",
            extra=[ResourceInfo(resource_type=kind, resource_name=id)],
        )


class AlreadyExists(ServiceError):
    """The name or the request id is taken by something else."""

    default_reason = "ALREADY_EXISTS"


class Aborted(ServiceError):
    """A concurrent change won: read again, compute again, try again."""

    default_reason = "ABORTED"


class FailedPrecondition(ServiceError):
    """The thing is not in a state that allows this."""

    default_reason = "FAILED_PRECONDITION"


class ResourceExhausted(ServiceError):
    """A limit is reached."""

    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(ServiceError):
    """A part that is needed is away."""

    default_reason = "UNAVAILABLE"


class Unauthenticated(ServiceError):
    """The caller did not prove who it is."""

    default_reason = "UNAUTHENTICATED"


class PermissionDenied(ServiceError):
    """The caller is known and may not do this."""

    default_reason = "PERMISSION_DENIED"


class DeadlineExceeded(ServiceError):
    """The caller's time is spent."""

    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(ServiceError):
    """A peer gave the call up. Never raised for a cancelled task: that is CancelledError."""

    default_reason = "CANCELLED"


class DataLoss(ServiceError):
    """Stored data cannot be read any more."""

    default_reason = "DATA_LOSS"


class Unimplemented(ServiceError):
    """The peer does not know the method, as an older version may not."""

    default_reason = "UNIMPLEMENTED"


class Internal(ServiceError):
    """A bug."""


CODES: Mapping[type[ServiceError], grpc.StatusCode] = MappingProxyType(
    {
        InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
        Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
        PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
        NotFound: grpc.StatusCode.NOT_FOUND,
        AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
        FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
        Aborted: grpc.StatusCode.ABORTED,
        ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Unavailable: grpc.StatusCode.UNAVAILABLE,
        DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
        Cancelled: grpc.StatusCode.CANCELLED,
        DataLoss: grpc.StatusCode.DATA_LOSS,
        Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
        Internal: grpc.StatusCode.INTERNAL,
    }
)


def code_of(error: ServiceError) -> grpc.StatusCode:
    """Return the gRPC code of the error's kind."""
    kinds = (CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    return next(kinds, grpc.StatusCode.INTERNAL)


def status_of(error: ServiceError) -> Status:
    """Return the error as it travels: code, message and details."""
    message = TRANSPORT_MESSAGE if error.transport else error.message
    status = Status(code=code_of(error).value[0], message=message)
    status.details.extend(_packed(detail) for detail in error.details())
    return status


def from_rpc(error: grpc.aio.AioRpcError) -> ServiceError:
    """Make the peer's error a domain error again, so that raising it relays it unchanged.

    A code without a kind (UNKNOWN, OUT_OF_RANGE) is a bug of the peer: `Internal`.
    """
    kinds = (kind for kind, code in CODES.items() if code is error.code())
    return next(kinds, Internal).received(error.details() or "", _received_details(error))


def _received_details(error: grpc.aio.AioRpcError) -> Sequence[AnyMessage]:
    raw = (error.trailing_metadata() or {}).get(STATUS_DETAILS_KEY)
    if not isinstance(raw, bytes):
        return ()
    try:
        return tuple(Status.FromString(raw).details)
    except DecodeError:
        # A proxy may cut long metadata; the code and the message still hold.
        return ()


def _find(details: Iterable[AnyMessage], kind: type[M]) -> M | None:
    for detail in details:
        message = kind()
        if detail.Unpack(message):  # false if it is of another type
            return message
    return None


def _bad_request(problems: Mapping[str, str]) -> BadRequest:
    violation = BadRequest.FieldViolation
    return BadRequest(
        field_violations=[violation(field=f, description=p) for f, p in problems.items()]
    )


def _packed(detail: Message) -> AnyMessage:
    if isinstance(detail, AnyMessage):
        return detail
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration
