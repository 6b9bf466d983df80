"""Wake-ups over Redis pub/sub: one connection a process, one subscription for what is watched."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from redis.exceptions import RedisError

from services.session.adapters.keys import session_wake_channel, wake_channel
from services.session.adapters.link import Link
from services.session.adapters.servers import Servers

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2


class RedisWakes:
    """Only wakes: whoever listens reads the log itself, now and then also without a wake-up."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._link: Link | None = None
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @classmethod
    @asynccontextmanager
    async def connect(cls, servers: Servers) -> AsyncIterator[Self]:
        """Listen on a link of its own."""
        wakes = cls(servers)
        task = asyncio.create_task(wakes._run())
        try:
            yield wakes
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def listen(self, turn_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        return self._listening(wake_channel(turn_id))

    def listen_to_session(self, session_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        return self._listening(session_wake_channel(session_id))

    @asynccontextmanager
    async def _listening(self, channel: str) -> AsyncIterator[asyncio.Event]:
        event = asyncio.Event()
        listeners = self._events[channel]
        listeners.add(event)
        try:
            if len(listeners) == 1 and self._link is not None:
                # Without a subscription the log is still read, each second.
                with contextlib.suppress(RedisError):
                    await self._link.request([("SUBSCRIBE", channel)])
            yield event
        finally:
            listeners.discard(event)
            if not listeners and self._events.pop(channel, None) is not None and self._link:
                self._link.tell([("UNSUBSCRIBE", channel)])

    async def _run(self) -> None:
        """Keep a link until cancelled; the subscriptions are renewed with it."""
        while True:
            try:
                await self._follow(await self._servers.dial(self._wake))
            except (RedisError, OSError) as error:
                _log.warning("wake-ups are interrupted: %s", type(error).__name__)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(self, link: Link) -> None:
        self._link = link
        try:
            if known := list(self._events):
                await link.request([("SUBSCRIBE", channel) for channel in known])
            for channel in known:
                self._wake(channel.encode())  # something may have come meanwhile
            await asyncio.shield(link.lost)
            _log.warning("wake-ups are interrupted: the link was lost")
        finally:
            self._link = None
            link.close()

    def _wake(self, channel: bytes) -> None:
        for event in self._events.get(channel.decode(), ()):
            event.set()
