"""Trying again until it works."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LOG = logging.getLogger(__name__)
FIRST_SECONDS = 0.1
LONGEST_SECONDS = 2.0


async def until_done(
    attempt: Callable[[], Awaitable[T]], *, despite: tuple[type[Exception], ...], what: str
) -> T:
    """Return what *attempt* returns, however often it first raises one of *despite*.

    Pauses grow from about 0.1 to 2 seconds, each cut to a random part so that replicas spread.
    """
    longest = FIRST_SECONDS
    while True:
        try:
            return await attempt()
        except despite as error:
            LOG.warning("%s: %s; trying again", what, error.__cause__ or error)
        await asyncio.sleep(longest * random.uniform(0.5, 1))  # noqa: S311 - spreads, hides nothing
        longest = min(longest * 2, LONGEST_SECONDS)
