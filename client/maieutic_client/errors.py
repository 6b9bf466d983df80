"""What a call can fail with, one class for each kind, lifted from gRPC status and details."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from maieutic.v1.session_service_pb2 import RevisionMismatch as MismatchDetail

DETAILS_KEY = "grpc-status-details-bin"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A field of the request that is wrong."""

    field: str
    description: str
    """What is wrong with it, and how to put it right."""


class MaieuticError(Exception):
    """A call failed."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        retry_after: float | None = None,
        violations: Sequence[Violation] = (),
        from_service: bool = False,
        details: Sequence[AnyMessage] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        """Stable UPPER_SNAKE name for programs; empty if gRPC itself made the error."""
        self.retry_after = retry_after
        """Seconds after which another try makes sense, if the service said so."""
        self.violations = tuple(violations)
        """The wrong fields, if the service named any."""
        self.from_service = from_service
        """False if gRPC itself made the error, as when the link broke."""
        self._details = tuple(details)


class InvalidArgument(MaieuticError):
    """Fields of the request are wrong: `violations` says which and how to put them right."""


class Unauthenticated(MaieuticError):
    """The API key is missing or wrong."""


class PermissionDenied(MaieuticError):
    """The key is good, but not for this."""


class NotFound(MaieuticError):
    """There is no such thing, or it belongs to somebody else."""


class AlreadyExists(MaieuticError):
    """The request id was used before, for another request."""


class FailedPrecondition(MaieuticError):
    """Not possible in the present state."""


class SessionBusy(FailedPrecondition):
    """Another turn is running in the session: wait for it, cancel it, or name a busy policy."""


class Aborted(MaieuticError):
    """Others kept changing the same thing at the same time."""


class RevisionMismatch(Aborted):
    """The session has not the revision that was expected: read it, decide again."""

    @property
    def current_revision(self) -> int:
        """The revision that the session had; 0 if a proxy has cut the error's details."""
        detail = _find(self._details, MismatchDetail)
        return detail.current_revision if detail is not None else 0


class ResourceExhausted(MaieuticError):
    """A limit is reached."""


class BudgetSpent(ResourceExhausted):
    """The session's budget is spent: no turn can begin in it before it has a larger one."""


class Unavailable(MaieuticError):
    """The service, or a part of it, cannot be reached."""


class DeadlineExceeded(MaieuticError):
    """The time for the call is spent."""


class Cancelled(MaieuticError):
    """The other side gave the call up."""


class DataLoss(MaieuticError):
    """Stored data cannot be read any more."""


class Unimplemented(MaieuticError):
    """The server does not know the method: it is older than this client."""


class Internal(MaieuticError):
    """A bug of the service."""


KINDS: Mapping[grpc.StatusCode, type[MaieuticError]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
        grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
        grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
        grpc.StatusCode.NOT_FOUND: NotFound,
        grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
        grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
        grpc.StatusCode.ABORTED: Aborted,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
        grpc.StatusCode.UNAVAILABLE: Unavailable,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.CANCELLED: Cancelled,
        grpc.StatusCode.DATA_LOSS: DataLoss,
        grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    }
)
REASONS: Mapping[str, type[MaieuticError]] = MappingProxyType(
    {
        "SESSION_BUSY": SessionBusy,
        "REVISION_MISMATCH": RevisionMismatch,
        "SESSION_BUDGET_SPENT": BudgetSpent,
    }
)
"""Kinds that the code alone does not tell apart."""


def lifted(error: grpc.aio.AioRpcError) -> MaieuticError:
    """Return the typed error of a failed call, with the call's error as its cause."""
    details = _details(error)
    info, retry, bad = (_find(details, kind) for kind in (ErrorInfo, RetryInfo, BadRequest))
    reason = info.reason if isinstance(info, ErrorInfo) else ""
    kind = REASONS.get(reason) or KINDS.get(error.code(), Internal)
    typed = kind(
        error.details() or error.code().name,
        reason=reason,
        retry_after=_seconds(retry) if isinstance(retry, RetryInfo) else None,
        violations=_violations(bad) if isinstance(bad, BadRequest) else (),
        from_service=info is not None,
        details=details,
    )
    typed.__cause__ = error
    return typed


def _details(error: grpc.aio.AioRpcError) -> Sequence[AnyMessage]:
    raw = (error.trailing_metadata() or {}).get(DETAILS_KEY)
    if not isinstance(raw, bytes):
        return ()
    try:
        return tuple(Status.FromString(raw).details)
    except DecodeError:
        # A proxy may cut long metadata; the code and the message still hold.
        return ()


def _find(details: Sequence[AnyMessage], kind: type[M]) -> M | None:
    for detail in details:
        message = kind()
        if detail.Unpack(message):
            return message
    return None


def _seconds(retry: RetryInfo) -> float:
    return retry.retry_delay.ToMicroseconds() / 1e6


def _violations(bad: BadRequest) -> list[Violation]:
    return [
        Violation(field=violation.field, description=violation.description)
        for violation in bad.field_violations
    ]
