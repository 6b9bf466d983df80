"""Transactions wait for the archive, which may take seconds, with a connection lent to each.

So only some may at a time. The others wait for their turn without a connection, and those that need
no archive find one, however slow it is.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from services.runtime import deadline
from services.runtime.errors import Unavailable

_hurried: ContextVar[bool] = ContextVar("maieutic_hurried", default=False)


class AsksArchive(Exception):
    """The archive would have to be asked: give the connection back, and wait for your turn."""


@contextmanager
def hurried(yes: bool) -> Iterator[None]:  # noqa: FBT001 - said by its name
    """Whether what runs in the block may not wait for the archive."""
    token = _hurried.set(yes)
    try:
        yield
    finally:
        _hurried.reset(token)


def may_be_asked() -> None:
    """Raise AsksArchive where nobody may wait for it."""
    if _hurried.get():
        raise AsksArchive


class ArchiveTurns:
    """Lets so many at a time wait for the archive."""

    def __init__(self, places: int, *, seconds: float) -> None:
        """Let *places* wait at a time, and the next ones at most *seconds* for theirs."""
        self._places = asyncio.Semaphore(places)
        self._seconds = seconds

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a place. Raises Unavailable."""
        try:
            async with asyncio.timeout(deadline.bounded(self._seconds)):
                await self._places.acquire()
        except TimeoutError as error:
            message = "many sessions wait for the archive, which is slow: retry"
            raise Unavailable(message, retry_after=1.0) from error
        try:
            yield
        finally:
            self._places.release()
