"""What requests of several calls have in common."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from services.persistence.facts import UNKNOWN_TIME, time_of
from services.persistence.model import Place
from services.runtime.errors import InvalidArgument, PermissionDenied
from services.runtime.identity import current_identity

CALLERS = frozenset({"session", "retrieval"})
MOST = 1000
"""No list is longer than this."""


def for_services() -> None:
    """Raise PermissionDenied unless a service calls that the archive answers."""
    if current_identity().service not in CALLERS:
        raise PermissionDenied("the archive answers only the services of the system")


def limited(field: str, value: int, *, least: int = 1) -> int:
    """Return how many items to list; raises InvalidArgument naming the field."""
    if not least <= value <= MOST:
        raise InvalidArgument(field, f"must be {least} to {MOST}, is {value}")
    return value


def seconds(field: str, value: Duration) -> float:
    """Return a span of time; raises InvalidArgument naming the field."""
    found = value.ToNanoseconds() / 1e9
    if found < 0:
        raise InvalidArgument(field, "must not be negative")
    return found


def place(request: Message, last_id: str, field: str = "before_create_time") -> Place | None:
    """Return where a list goes on, None for its start; raises InvalidArgument."""
    try:
        last = time_of(request, field)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(field, str(error)) from error
    if last is None and not last_id:
        return None
    return Place(time=last or UNKNOWN_TIME, id=last_id)
