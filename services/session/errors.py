"""What can go wrong with a session, each with a reason that programs can act on."""

from enum import StrEnum

from google.rpc.error_details_pb2 import QuotaFailure

from maieutic.v1.session_service_pb2 import RevisionMismatch as MismatchDetail
from services.runtime.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)


class ErrorType(StrEnum):
    """What went wrong with the session store, as its metric and the log say it."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    CONFLICT_EXHAUSTED = "conflict_exhausted"
    SERIALIZATION = "serialization"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    INVALID_ID = "invalid_id"
    POOL_EXHAUSTED = "pool_exhausted"
    MEMORY = "memory"
    UNKNOWN = "unknown"


def session_not_found(session_id: str) -> NotFound:
    """Return the same error for an unknown session and for somebody else's."""
    return NotFound("session", session_id)


def turn_not_found(turn_id: str) -> NotFound:
    """Return the same error for an unknown turn and for somebody else's."""
    return NotFound("turn", turn_id)


def message_not_found(message_id: str) -> NotFound:
    """Return the error for a message that is not in the session."""
    return NotFound("message", message_id)


def artifact_not_found(artifact_id: str) -> NotFound:
    """Return the same error for an unknown artifact and for somebody else's."""
    return NotFound("artifact", artifact_id)


def conflict_not_found(conflict_id: str) -> NotFound:
    """Return the error for a conflict that is not in the session."""
    return NotFound("conflict", conflict_id)


class ConflictResolved(FailedPrecondition):
    """The user has decided the conflict before."""

    def __init__(self, conflict_id: str) -> None:
        super().__init__(
            f"conflict {conflict_id} is resolved, and stays as it was decided: say what holds now "
            "in the conversation",
            reason="CONFLICT_RESOLVED",
        )


class SessionBusy(FailedPrecondition):
    """Another turn is running in the session."""

    def __init__(self, turn_id: str) -> None:
        super().__init__(
            f"turn {turn_id} is running in this session: watch or cancel it, then begin again, "
            "or begin with another busy policy",
            reason="SESSION_BUSY",
        )
        self.turn_id = turn_id


class TurnNotEnded(FailedPrecondition):
    """The turn's answer is asked for, and it has none yet."""

    def __init__(self, turn_id: str) -> None:
        super().__init__(
            f"turn {turn_id} has not ended: watch it to its end, then ask again",
            reason="TURN_NOT_ENDED",
        )


class SessionDeleted(FailedPrecondition):
    """The request id made a session that has been deleted since."""

    def __init__(self) -> None:
        message = "this request_id created a session that was deleted: use a new request_id"
        super().__init__(message, reason="SESSION_DELETED")


class SessionSettling(Aborted):
    """The live store was emptied, and whether the turn before has ended is not known again yet."""

    def __init__(self, turn_id: str) -> None:
        message = f"turn {turn_id} is being brought back and may have ended: retry"
        super().__init__(message, reason="SESSION_SETTLING", retry_after=0.5)


class SessionEnded(FailedPrecondition):
    """The session was ended: nothing more is asked in it."""

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id} was ended, no turn can begin in it: use another session",
            reason="SESSION_ENDED",
        )


class DocumentSetFixed(FailedPrecondition):
    """The session stands for its set of documents."""

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id} belongs to its set of documents: ask GetOrCreateSession for the "
            "session of another set, or create one whose documents can change",
            reason="DOCUMENT_SET_FIXED",
        )


class RevisionMismatch(Aborted):
    """The session is not as the caller last saw it. To try the same again is of no use."""

    def __init__(self, session_id: str, expected: int, current: int) -> None:
        super().__init__(
            f"session {session_id} has revision {current}, not {expected}: read it, decide again, "
            "and send a new request",
            reason="REVISION_MISMATCH",
            extra=[
                MismatchDetail(
                    session_id=session_id, expected_revision=expected, current_revision=current
                )
            ],
        )


class LimitReached(ResourceExhausted):
    """There are as many of something as there may be: names the limit and the way out."""

    way_out = "delete some first"

    def __init__(self, limit: str, most: int, of: str) -> None:
        message = f"the limit {limit} is reached: at most {most} {of}: {self.way_out}"
        violation = QuotaFailure.Violation(subject=limit, description=message)
        super().__init__(
            message, reason="LIMIT_REACHED", extra=[QuotaFailure(violations=[violation])]
        )


class LineFull(LimitReached):
    """As many turns wait in the session as may."""

    way_out = "wait for one to end, or cancel one"

    def __init__(self, most: int) -> None:
        super().__init__("waiting_turns", most, "waiting turns of one session")


class SideTurnsFull(LimitReached):
    """As many turns run beside the conversation as may."""

    way_out = "wait for one to end, or cancel one"

    def __init__(self, most: int) -> None:
        super().__init__("side_turns", most, "turns beside the conversation of one session")


class SessionBudgetSpent(ResourceExhausted):
    """Nothing is left of the session's budget: no turn can begin."""

    def __init__(self, spent: str) -> None:
        message = (
            f"the session's budget is spent, {spent}: give it a larger one with UpdateSession, or "
            "ask in another session"
        )
        violation = QuotaFailure.Violation(subject="session_budget", description=message)
        super().__init__(
            message, reason="SESSION_BUDGET_SPENT", extra=[QuotaFailure(violations=[violation])]
        )


class RequestIdTaken(AlreadyExists):
    """The request id was used for another request."""

    def __init__(self) -> None:
        message = "request_id was used before for another request: use a new one for each request"
        super().__init__(message, reason="REQUEST_ID_TAKEN")


class ConflictExhausted(Aborted):
    """Other writers won every round until the caller's deadline."""

    error_type = ErrorType.CONFLICT_EXHAUSTED

    def __init__(self, session_id: str, rounds: int) -> None:
        message = f"session {session_id} changed {rounds} times while it was being written: retry"
        super().__init__(message, reason="CONFLICT_EXHAUSTED", retry_after=0.1)


class StoreUnavailable(Unavailable):
    """The live store does not answer, takes too long, or refuses what it is asked for.

    It may pass, if need be with an operator's help: whoever has work in hand keeps it and comes
    again. `error_type` is one of timeout, connection, permission, pool_exhausted and unknown.
    """

    def __init__(
        self,
        problem: str,
        *,
        error_type: ErrorType = ErrorType.UNKNOWN,
        advice: str = "retry",
        retry_after: float = 1.0,
    ) -> None:
        super().__init__(
            f"the session store is not available ({problem}): {advice}",
            reason="SESSION_STORE_UNAVAILABLE",
            retry_after=retry_after,
        )
        self.error_type = error_type


class NotReplicated(Unavailable):
    """What was asked for is done, but no replica has confirmed it: a failover could lose it."""

    error_type = ErrorType.TIMEOUT

    def __init__(self) -> None:
        super().__init__(
            "it is done, but no replica of the session store has confirmed it in time: retry with "
            "the same request_id, which waits for the replica and does nothing twice",
            reason="NOT_REPLICATED",
            retry_after=1.0,
        )


class StoreFull(ResourceExhausted):
    """The live store has no memory left for a write: nothing was written."""

    error_type = ErrorType.MEMORY

    def __init__(self) -> None:
        super().__init__(
            "the session store's memory is full: retry later; an operator raises its maxmemory, or "
            "lets idle sessions go sooner with MAIEUTIC_IDLE",
            reason="SESSION_STORE_FULL",
            retry_after=5.0,
        )


class RecordDamaged(DataLoss):
    """A stored record cannot be read, and there is no copy of it. It was put into quarantine."""

    error_type = ErrorType.SERIALIZATION

    def __init__(self) -> None:
        super().__init__(
            "the stored record is damaged, and the archive has no copy: an operator finds it with "
            "`maieutic admin quarantine list`",
            reason="RECORD_DAMAGED",
        )


class InvalidId(InvalidArgument):
    """An id that this service cannot have given: nothing was looked for."""

    error_type = ErrorType.INVALID_ID


class TurnNotBack(Unavailable):
    """The live store was emptied, and the turn may yet come back from its job or the archive."""

    def __init__(self, turn_id: str) -> None:
        message = f"turn {turn_id} is not here while the session store fills again: retry"
        super().__init__(message, reason="TURN_NOT_BACK", retry_after=1.0)


class Overloaded(Unavailable):
    """Work is not being taken on, because what there is cannot be made durable."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"no new turns for the moment: {problem}", reason="OVERLOADED", retry_after=5.0
        )


class BadCursor(InvalidArgument):
    """The cursor was not made by this stream."""

    def __init__(self, of: str, without: str) -> None:
        """Say what the cursor must be *of*, and from where it is watched *without* one."""
        problem = f"must be the cursor of a frame of this {of}, or empty to watch {without}"
        super().__init__("cursor", problem)


class BadPageToken(InvalidArgument):
    """The page token was not made by this list."""

    def __init__(self) -> None:
        problem = "must be the next_page_token of the answer before, or empty for the first page"
        super().__init__("page_token", problem)


class ServicesOnly(PermissionDenied):
    """A caller's token was used where only workers and the archive may write."""

    def __init__(self) -> None:
        super().__init__("only the services themselves may call this", reason="SERVICES_ONLY")


class EventsOutOfStep(Aborted):
    """An outcome came before the log had all of its frames."""

    def __init__(self, recorded: int, claimed: int) -> None:
        message = f"the log ends with frame {recorded}, not {claimed}: record the rest, then retry"
        super().__init__(message, reason="EVENTS_OUT_OF_STEP")
