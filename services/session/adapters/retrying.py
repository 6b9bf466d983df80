"""Asking again while another server takes over."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

from services.runtime import deadline
from services.session.adapters.passing import is_worth_another_try

T = TypeVar("T")

_LONGEST_PAUSE = 0.1
_SHORTEST_PAUSE = 0.002


def pause(rounds: int) -> float:
    """Return how many seconds to wait before the next round: longer each time, and at random."""
    longest: float = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2 ** min(rounds, 6))
    return random.random() * longest  # noqa: S311 - jitter


async def until_served(attempt: Callable[[], Awaitable[T]], timeout: float) -> T:  # noqa: ASYNC109 - see below
    """Attempt until it succeeds or *timeout*, or the caller's deadline, is over.

    Raises what the last attempt did. No attempt is broken off: each has its own bounds.
    """
    until = time.monotonic() + (deadline.bounded(timeout) or timeout)
    rounds = 0
    while True:
        try:
            return await attempt()
        except (RedisError, OSError) as error:
            if not is_worth_another_try(error) or time.monotonic() >= until:
                raise
        rounds += 1
        await asyncio.sleep(pause(rounds))
