"""Waits with a limit that moves on."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

LOOK_SECONDS = 0.05
"""How late a limit may be noticed that passes between two waits."""

T = TypeVar("T")


class Patience:
    """Ends a wait that lasts too long, as asyncio.timeout_at does, for one wait after the other.

    A stream is a wait for each of its pieces. With a timer for each, the timers would take a
    tenth of the stream's processor time; here one looks again at the limit as it is by then.
    """

    def __init__(self, until: float) -> None:
        """*until* is on the loop's clock."""
        self._until = until
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Task[Any] | None = None
        self._over = False
        self._timer = self._loop.call_at(until, self._look)

    def move(self, until: float) -> None:
        """Set another limit, for the next wait."""
        self._until = until
        if until < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(until, self._look)

    def close(self) -> None:
        """Let nothing more end."""
        self._timer.cancel()

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Return what is awaited; raises TimeoutError if it has not come by the limit.

        After that there is nothing more to wait for.
        """
        if (task := asyncio.current_task()) is None:
            raise RuntimeError("only a task can wait")
        others, self._waiting = task.cancelling(), task
        try:
            return await awaitable
        except asyncio.CancelledError as error:
            # Not if somebody else has cancelled the task, too: that goes before.
            if self._over and task.uncancel() <= others:
                raise TimeoutError from error
            raise
        finally:
            self._waiting = None

    def _look(self) -> None:
        if (now := self._loop.time()) < self._until or self._waiting is None:
            # Between two waits somebody else is at work, whom this is not to end.
            again = max(self._until, now + LOOK_SECONDS)
            self._timer = self._loop.call_at(again, self._look)
            return
        self._over = True
        self._waiting.cancel()
