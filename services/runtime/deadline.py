"""The deadline of the running call, which the calls it makes inherit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("maieutic_deadline", default=None)
"""On the monotonic clock, in seconds."""


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Give the block at most *seconds*, never more than it already had; None adds no limit.

    Nothing is cancelled here: the limit is what outgoing calls are given.
    """
    limit = bounded(seconds)
    token = _deadline.set(None if limit is None else time.monotonic() + limit)
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def lifted() -> Iterator[None]:
    """Free the block of the deadline: for work that outlives the call that started it."""
    token = _deadline.set(None)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining() -> float | None:
    """Return the seconds that are left, 0 if none, or None if there is no deadline."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def bounded(timeout: float | None) -> float | None:
    """Return the smaller of *timeout* and what is left; None means no limit."""
    left = remaining()
    if left is None or timeout is None:
        return timeout if left is None else left
    return min(timeout, left)
