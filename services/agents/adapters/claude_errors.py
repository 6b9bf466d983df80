"""What goes wrong at Anthropic's API, as the errors of the model port. Pure."""

import email.utils
import math
import re
import time

import httpx2
from anthropic import APIConnectionError, APIError, APIStatusError, APITimeoutError

from services.agents.errors import (
    ContextTooLarge,
    ModelError,
    ModelOverloaded,
    ModelRejected,
    ModelUnavailable,
)

FOREIGN = (
    *(APIError, httpx2.HTTPError, httpx2.StreamError, TimeoutError),
    *(ValueError, KeyError, TypeError, AttributeError),
)
"""What opening and reading a stream raises. The SDK translates only what happens until a stream
begins: after that a lost connection is httpx2's, data that is no JSON a ValueError, and an event
without its fields one of the others."""

EXPLANATION_CHARACTERS = 300

# An error in the middle of a stream comes with status 200: its type tells which one it means.
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_REQUEST_TIMEOUT, _CONFLICT, _RATE_LIMIT, _FAILED, _OVERLOADED = 408, 409, 429, 500, 529
_INVALID, _TOO_LARGE = 400, 413
_TOO_LONG = re.compile(r"prompt is too long|exceed context limit", re.IGNORECASE)
_PASSING = (_REQUEST_TIMEOUT, _CONFLICT)


def model_error(error: Exception) -> ModelError:
    """Return the port's error for one of `FOREIGN`; its text has nothing of the conversation."""
    if isinstance(error, APIStatusError):
        return _of_status(error)
    if isinstance(error, (APITimeoutError, TimeoutError, httpx2.TimeoutException)):
        return ModelUnavailable("Claude did not answer in time.")
    if isinstance(error, APIConnectionError):
        return ModelUnavailable("Claude cannot be reached.")
    return ModelUnavailable("The answer of Claude broke off.")


def status_of(error: APIStatusError) -> int:
    """Return the status, or for an error in a stream the one that it means."""
    if error.status_code >= 400:  # noqa: PLR2004 - where the errors begin
        return error.status_code
    return _STATUS_OF_TYPE.get(error.type or "", _FAILED)


def _of_status(error: APIStatusError) -> ModelError:
    status = status_of(error)
    if status in (_RATE_LIMIT, _OVERLOADED):
        return ModelOverloaded(_unavailable(status), retry_after=_retry_after(error))
    if status in _PASSING or status >= _FAILED:
        return ModelUnavailable(_unavailable(status), retry_after=_retry_after(error))
    if status == _TOO_LARGE or (status == _INVALID and _TOO_LONG.search(error.api_message or "")):
        return ContextTooLarge(f"Claude cannot read so much at once{_said(error)}")
    return ModelRejected(_rejected(status, _said(error)))


def _unavailable(status: int) -> str:
    if status == _RATE_LIMIT:
        return "The rate limit of the Claude account is reached."
    if status == _OVERLOADED:
        return "Claude is overloaded."
    return f"Claude failed with status {status}."


def _rejected(status: int, said: str) -> str:
    match status:
        case 401 | 403:
            return (
                f"Claude refused the service's API key{said}: "
                "its operator has to set MAIEUTIC_MODEL_CLAUDE_API_KEY."
            )
        case 402:
            return f"The account of the service's API key cannot pay for Claude{said}."
        case 404:
            return (
                f"Claude knows no such model{said}: "
                "the operator has to set MAIEUTIC_MODEL_CLAUDE_MODEL."
            )
        case _:
            return (
                f"Claude rejected the request{said}. Change the message, or ask in a new session "
                "or of fewer documents."
            )


def _said(error: APIStatusError) -> str:
    text = " ".join((error.api_message or "").split())
    return f" ({text[:EXPLANATION_CHARACTERS]})" if text else ""


def _retry_after(error: APIStatusError) -> float | None:
    """Return the header's seconds, whether it gives a number or a date; None without a good one."""
    value = error.response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_tz(value)
        seconds = email.utils.mktime_tz(date) - time.time() if date else math.nan
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
