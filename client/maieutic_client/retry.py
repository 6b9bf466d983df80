"""When a failed call is tried again, and when to give up."""

import asyncio
import random
from dataclasses import dataclass

from maieutic_client.errors import (
    Aborted,
    Cancelled,
    Internal,
    MaieuticError,
    ResourceExhausted,
    RevisionMismatch,
    Unavailable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait between tries, and for how long to go on. Seconds throughout."""

    first_delay: float = 0.05
    longest_delay: float = 2.0
    give_up_after: float = 60.0
    """How long the service may stay away; anything received starts this anew."""

    def delay(self, tries: int) -> float:
        """Return a random wait before the next try, after *tries* failed ones (full jitter)."""
        most = self.first_delay * 2 ** min(tries - 1, 30)
        return random.uniform(0, min(self.longest_delay, most))  # noqa: S311 - no cryptography


def passes_by_itself(error: MaieuticError) -> bool:
    """Return whether the same call, made again, may succeed. Request ids make that safe."""
    if isinstance(error, RevisionMismatch):
        return False
    if isinstance(error, Unavailable | Aborted):
        return True
    return isinstance(error, ResourceExhausted) and error.retry_after is not None


def _link_broke(error: MaieuticError) -> bool:
    """Return whether gRPC itself ended a stream, as it does when a connection is reset."""
    return isinstance(error, Cancelled | Internal) and not error.from_service


class Patience:
    """The time that one logical call has, over all of its tries."""

    def __init__(self, policy: RetryPolicy, timeout: float | None) -> None:
        self._policy = policy
        self._now = asyncio.get_running_loop().time
        self._end = None if timeout is None else self._now() + timeout
        self._tries = 0
        self._give_up = self._now() + policy.give_up_after

    def left(self) -> float | None:
        """Return the seconds that are left of the whole call, or None without a limit."""
        return None if self._end is None else max(0.0, self._end - self._now())

    def renew(self) -> None:
        """Note that the service is there: the next failure is a first one."""
        self._tries = 0
        self._give_up = self._now() + self._policy.give_up_after

    async def after_break(self, error: MaieuticError) -> None:
        """Wait until a stream may begin again; raises *error* if it stays, or the time is spent."""
        if not (passes_by_itself(error) or _link_broke(error)):
            raise error
        await self.after(error)

    async def after(self, error: MaieuticError) -> None:
        """Wait until the next try; raises *error* if the time would be spent by then."""
        self._tries += 1
        wait = self._policy.delay(self._tries) + (error.retry_after or 0.0)
        until = self._now() + wait
        if until > self._give_up or (self._end is not None and until > self._end):
            raise error
        await asyncio.sleep(wait)
