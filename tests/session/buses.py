"""Buses that a session service is given: they lose what it publishes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from services.runtime.bus import Bus, BusUnavailable, Deliveries, OutgoingMessage


class LossyBus:
    """Loses the messages that `loses` chooses, and says so as a broker that is away does."""

    def __init__(self, inner: Bus) -> None:
        self._inner = inner
        self.loses: Callable[[OutgoingMessage], bool] = lambda _: False
        self.lost: list[OutgoingMessage] = []

    async def publish(self, message: OutgoingMessage, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - the port's
        if self.loses(message):
            self.lost.append(message)
            raise BusUnavailable("lost on purpose")
        await self._inner.publish(message, timeout=timeout)

    def consume(self, queue: str, *, prefetch: int) -> AbstractAsyncContextManager[Deliveries]:
        return self._inner.consume(queue, prefetch=prefetch)

    async def check(self) -> None:
        await self._inner.check()

    def lose_exchange(self, name: str, times: int = 10**9) -> None:
        """Lose the next messages to an exchange."""
        left = times

        def loses(message: OutgoingMessage) -> bool:
            nonlocal left
            if message.exchange != name or left == 0:
                return False
            left -= 1
            return True

        self.loses = loses
