"""What a failed attempt of a turn is told as. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.agents.errors import (
    AnswerTooLarge,
    ContextTooLarge,
    ConversationUnreadable,
    ModelCut,
    ModelError,
    ModelMalformed,
    ModelOverloaded,
    ModelRefused,
    ModelRejected,
    ModelUnavailable,
    ModelUnending,
    NotDoable,
)
from services.runtime.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)

TRANSIENT = (Unavailable, DeadlineExceeded, ResourceExhausted, Aborted, Cancelled)
"""What a peer may answer today and not tomorrow."""
FIRST_WAIT = 1.0
"""Longest wait in seconds after the first attempt."""
LONGEST_WAIT = 30.0
POSTPONED_FROM = 2.0
"""Seconds: whoever has to wait so long gives the worker's place to others."""
SPREAD = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt ended without an answer."""

    reason: str
    """UPPER_SNAKE."""
    explanation: str
    """For people."""
    retryable: bool
    retry_after: float | None = None
    """Seconds."""
    over_budget: bool = False
    """A budget does not allow to go on: what was said so far is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponement:
    """Why an attempt does not count: nothing is wrong with the turn, it is only not its time."""

    seconds: float
    """Until it may be tried again."""


def postponement_of(error: BaseException, left: float, chance: float) -> Postponement | None:
    """Return for how long the turn is handed back; None if the attempt has to count.

    A short wait is an attempt like any other. One that ends after the *left* seconds of the turn's
    time budget is its failure, at once. *chance*, from 0 to 1, spreads those who wait together.
    """
    if not isinstance(error, ModelOverloaded) or error.retry_after is None:
        return None
    seconds = error.retry_after * (1 + SPREAD * chance)
    return Postponement(seconds=seconds) if POSTPONED_FROM <= seconds < left else None


TIME_BUDGET = Failure(
    reason="TIME_BUDGET",
    explanation="The answer was not ready within the time that the turn may run.",
    retryable=False,
)
UNREADABLE = Failure(
    reason="CONVERSATION_UNREADABLE",
    explanation="What was said before could not be read for the moment.",
    retryable=True,
)
NO_AGENT = Failure(
    reason="NO_AGENT",
    explanation="No agent here can do this; its operator has to bring the workers up to date.",
    retryable=False,
)


def no_agent(asked: str, known: Iterable[str]) -> Failure:
    """Return how to tell that nobody here is called as was *asked* for; empty is nobody by name."""
    if not asked:
        return NO_AGENT
    there = ", ".join(sorted(known))
    return replace(NO_AGENT, explanation=f"There is no agent {asked!r} here; there are: {there}.")


def wait_before_retry(asked: float | None, attempt: int, chance: float) -> float:
    """Return the seconds until the next attempt, at least what was asked for.

    Each attempt (from 1) waits longer than the last. *chance*, from 0 to 1, spreads the turns that
    failed together, so that they do not come back together.
    """
    longest = min(FIRST_WAIT * 2.0 ** (attempt - 1), LONGEST_WAIT)
    return (asked or longest / 2) + chance * longest / 2


def failure_of(error: BaseException) -> Failure:
    """Return how to tell of what an agent raised."""
    if isinstance(error, ModelError):
        return _of_model(error)
    if isinstance(error, AnswerTooLarge):
        return Failure(reason="ANSWER_TOO_LARGE", explanation=str(error), retryable=False)
    if isinstance(error, NotDoable):
        return Failure(reason=error.reason, explanation=str(error), retryable=False)
    if isinstance(error, ConversationUnreadable):
        return UNREADABLE
    if isinstance(error, ServiceError):
        return _of_peer(error)
    # An unknown exception may be a bug that this input meets every time, or a passing one: it may
    # be tried again, and the turn's attempts bound how often.
    return Failure(
        reason="AGENT_ERROR",
        explanation="The agent failed unexpectedly; the cause is in the log.",
        retryable=True,
    )


def _of_model(error: ModelError) -> Failure:
    retry_after = error.retry_after if isinstance(error, ModelUnavailable) else None
    reasons = {
        ModelCut: "MODEL_CUT",
        ModelMalformed: "MODEL_MALFORMED",
        ModelRefused: "MODEL_REFUSED",
        ModelRejected: "MODEL_REJECTED",
        ContextTooLarge: "CONTEXT_TOO_LARGE",
        ModelUnending: "MODEL_UNENDING",
    }
    return Failure(
        reason=reasons.get(type(error), "MODEL_UNAVAILABLE"),
        explanation=str(error),
        retryable=isinstance(error, ModelUnavailable),
        retry_after=retry_after,
    )


def _of_peer(error: ServiceError) -> Failure:
    if isinstance(error, TRANSIENT):
        return Failure(
            reason="SEARCH_UNAVAILABLE",
            explanation="The documents could not be searched for the moment.",
            retryable=True,
            retry_after=error.retry_after,
        )
    return Failure(reason=error.reason, explanation=error.message, retryable=False)
