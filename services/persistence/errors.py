"""What can go wrong in the archive."""

from google.rpc.error_details_pb2 import QuotaFailure

from services.runtime.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

RETRY_SECONDS = 1.0


class Unreadable(ValueError):
    """A message from the bus that says nothing the archive could keep; the text says why."""


class ArchiveUnavailable(Unavailable):
    """The database is away, or cannot write now. What was to be written may have been written.

    Why is the cause's to say, for logs: its text may hold addresses.
    """

    default_reason = "ARCHIVE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the archive's database does not answer", retry_after=RETRY_SECONDS)


class Refused(InvalidArgument):
    """The database refuses the data itself: it would refuse it again."""

    default_reason = "ARCHIVE_REFUSED"

    def __init__(self, problem: str) -> None:
        super().__init__("data", problem)


class SessionNotFound(NotFound):
    """There is no such session, or it is deleted."""

    def __init__(self, session_id: str) -> None:
        super().__init__("session", session_id)


class MessageNotFound(NotFound):
    """There is no such message in the session."""

    def __init__(self, message_id: str) -> None:
        super().__init__("message", message_id)


class DocumentNotFound(NotFound):
    """There is no such document, or it is not the owner's."""

    def __init__(self, document_id: str) -> None:
        super().__init__("document", document_id)


class ArtifactNotFound(NotFound):
    """There is no such artifact."""

    def __init__(self, artifact_id: str) -> None:
        super().__init__("artifact", artifact_id)


class SessionNotYetArchived(Unavailable):
    """The archive has not heard of the session yet: it soon will."""

    default_reason = "SESSION_NOT_YET_ARCHIVED"

    def __init__(self, session_id: str) -> None:
        message = f"the archive does not know session {session_id!r} yet"
        super().__init__(message, retry_after=RETRY_SECONDS)


class TurnHasEnded(FailedPrecondition):
    """The turn has its outcome: nothing is added to it."""

    def __init__(self, turn_id: str) -> None:
        super().__init__(f"turn {turn_id} has ended", reason="TURN_HAS_ENDED")


class ArtifactLimitReached(FailedPrecondition):
    """An attempt of a turn has put as much as it may, which no waiting cures: names the limit."""

    def __init__(self, limit: str, most: int) -> None:
        message = f"the limit artifacts.{limit} is reached: at most {most} in an attempt of a turn"
        super().__init__(message, reason="LIMIT_REACHED")


class TurnNotFound(NotFound):
    """There is no such turn, or it is not the caller's."""

    def __init__(self, turn_id: str) -> None:
        super().__init__("turn", turn_id)


class UsageTooLarge(ResourceExhausted):
    """Adding up takes longer than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"adding up takes longer than {seconds:g} s: ask for less, with start_time and "
            "end_time, for one user or for one session",
            reason="USAGE_TOO_LARGE",
        )


class DeadLetterNotFound(NotFound):
    """There is no such dead letter."""

    def __init__(self, letter_id: str) -> None:
        super().__init__("dead letter", letter_id)


class CutDeadLetter(FailedPrecondition):
    """The letter's content was too large to be kept whole."""

    def __init__(self, letter_id: str) -> None:
        message = f"dead letter {letter_id} was kept in part and cannot be redriven"
        super().__init__(message, reason="DEAD_LETTER_CUT")


class BusAway(Unavailable):
    """The broker did not confirm. What was to be published may have been published."""

    default_reason = "BUS_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the broker does not answer", retry_after=RETRY_SECONDS)


class RequestIdTaken(AlreadyExists):
    """The request id has been used for another request."""

    default_reason = "REQUEST_ID_TAKEN"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {request_id!r} was used for another request; choose a new one"
        )


class DocumentLimitReached(ResourceExhausted):
    """The tenant has as many documents, or bytes of them, as it may: names the limit."""

    def __init__(self, limit: str, most: int) -> None:
        message = f"the limit {limit} is reached: at most {most} for a tenant: delete some first"
        violation = QuotaFailure.Violation(subject=limit, description=message)
        super().__init__(
            message, reason="LIMIT_REACHED", extra=[QuotaFailure(violations=[violation])]
        )


class DocumentIdTaken(AlreadyExists):
    """The document id belongs to other content."""

    default_reason = "DOCUMENT_ID_TAKEN"

    def __init__(self, document_id: str) -> None:
        super().__init__(f"document_id {document_id!r} belongs to other content")


class VersionNotFound(NotFound):
    """There is no such index version."""

    def __init__(self, version_id: str) -> None:
        super().__init__("index version", version_id or "before the current one")


class VersionIncomplete(FailedPrecondition):
    """The index version lacks documents that the current one has."""

    default_reason = "INDEX_VERSION_INCOMPLETE"


class VersionBusy(FailedPrecondition):
    """The index version is searched, or is being dropped."""

    default_reason = "INDEX_VERSION_BUSY"
