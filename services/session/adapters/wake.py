"""Wake-ups over Redis pub/sub: one connection a process, one subscription a watched turn."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from services.session.adapters.keys import wake_channel

_log = logging.getLogger(__name__)

_IDLE_CHANNEL = "maieutic:wake"
_PAUSE_SECONDS = 0.2


class RedisWakes:
    """Only wakes: whoever listens reads the log itself, now and then also without a wake-up."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @classmethod
    @asynccontextmanager
    async def connect(cls, client: Redis) -> AsyncIterator[Self]:
        """Listen with a connection of *client*'s pool."""
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        wakes = cls(pubsub)
        task = asyncio.create_task(wakes._run())
        try:
            yield wakes
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await pubsub.aclose()  # type: ignore[no-untyped-call] # redis-py

    @asynccontextmanager
    async def listen(self, turn_id: str) -> AsyncIterator[asyncio.Event]:
        channel, event = wake_channel(turn_id), asyncio.Event()
        listeners = self._events[channel]
        listeners.add(event)
        try:
            if len(listeners) == 1:
                await self._subscribe(channel)
            yield event
        finally:
            listeners.discard(event)
            if not listeners and self._events.pop(channel, None) is not None:
                await asyncio.shield(self._unsubscribe(channel))

    async def _subscribe(self, channel: str) -> None:
        # Without a subscription the log is still read, each second.
        with contextlib.suppress(RedisError, OSError):
            await self._pubsub.subscribe(channel)

    async def _unsubscribe(self, channel: str) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._pubsub.unsubscribe(channel)

    async def _run(self) -> None:
        """Wake listeners until cancelled; the subscriptions are renewed with the connection."""
        while True:
            try:
                # A subscription that never ends keeps the connection reading.
                await self._pubsub.subscribe(_IDLE_CHANNEL)
                while True:
                    message = await self._pubsub.get_message(timeout=1.0)
                    if message is not None:
                        self._wake(message["channel"])
            except (RedisError, OSError) as error:
                _log.warning("wake-ups are interrupted: %s", type(error).__name__)
                await asyncio.sleep(_PAUSE_SECONDS)

    def _wake(self, channel: bytes | str) -> None:
        name = channel.decode() if isinstance(channel, bytes) else channel
        for event in self._events.get(name, ()):
            event.set()
