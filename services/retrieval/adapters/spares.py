"""Connections that are made before they are needed: a search that comes alone has no handshake."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import httpcore

from services.retrieval.adapters.single_use import SingleUse

KEPT_SECONDS = 5.0
"""An idle connection is dropped before the other side does it."""
PORTS = {"http": 80, "https": 443}


@dataclass(slots=True, kw_only=True, eq=False)
class _Spare:
    transport: SingleUse
    taken: asyncio.Event = field(default_factory=asyncio.Event)


class Spares:
    """A few transports that are connected; each is given away once, and another made for it."""

    def __init__(self, number: int, open_: Callable[[str], SingleUse], *, timeout: float) -> None:
        """Keep that *number*, 0 for none; *timeout* is how many seconds connecting may take."""
        self._number = number
        self._open = open_
        self._timeout = timeout
        self._kept = 0
        self._ready: deque[_Spare] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Connect nothing yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what nobody took."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def take(self, url: str) -> SingleUse:
        """Return a transport for the host of the URL, always the same; connected if one is ready.

        Whoever takes it closes it.
        """
        transport = self._given() or self._open(url)
        if self._kept < self._number:
            self._kept += 1
            task = asyncio.create_task(self._keep(url))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return transport

    def _given(self) -> SingleUse | None:
        while self._ready:
            # The newest: what is not needed grows old and is closed.
            spare = self._ready.pop()
            if spare.transport.connected:
                self._kept -= 1
                spare.taken.set()
                return spare.transport
        return None

    async def _keep(self, url: str) -> None:
        """Connect a transport, and close it unless it is taken in time."""
        parts, spare = urlsplit(url), _Spare(transport=self._open(url))
        port = parts.port or PORTS[parts.scheme]
        try:
            await spare.transport.connect(str(parts.hostname), port, timeout=self._timeout)
            self._ready.append(spare)
            async with asyncio.timeout(KEPT_SECONDS):
                await spare.taken.wait()
        except (httpcore.NetworkError, httpcore.TimeoutException, TimeoutError):
            # Whoever needs a connection makes one, and says what is wrong with it.
            pass
        finally:
            if not spare.taken.is_set():
                self._kept -= 1
                if spare in self._ready:
                    self._ready.remove(spare)
                await spare.transport.aclose()
