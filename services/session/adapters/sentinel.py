"""A primary that Sentinels name, and that a replica may follow at any time."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's own name
    RedisError,
)

from services.session.adapters.address import Place, StoreAddress
from services.session.adapters.dialing import Patience, dial
from services.session.adapters.link import Command, Link, OnMessage
from services.session.adapters.links import Links
from services.session.adapters.passing import explained, is_passing, nobody
from services.session.adapters.retrying import until_served

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.5


class Sentinels:
    """Knows where the primary is: from one Sentinel, and from the next one if that was wrong."""

    def __init__(self, address: StoreAddress, patience: Patience) -> None:
        self._places = list(address.places)
        self._address = address
        self._patience = patience
        self._asking: asyncio.Task[Place] | None = None
        self._last: Place | None = None
        self.primary: Place | None = None
        """Where the primary is, as far as known."""

    async def dial_primary(self, on_message: OnMessage | None = None) -> Link:
        """Open a link to the server that says itself that it is the primary.

        Raises RedisError or OSError; then the next call asks a Sentinel again.
        """
        place = self.primary or await self._named()
        try:
            link = await dial(place, self._address.access, self._patience, on_message)
            (role,) = await link.request([("ROLE",)])
            if isinstance(role, Exception) or role[0] != b"master":
                link.close()
                raise ConnectionError(f"{place} is no primary, though a Sentinel says so")
        except (RedisError, OSError):
            self._doubt(place)
            raise
        return link

    async def listen(self, on_switch: Callable[[], None]) -> None:
        """Call *on_switch* whenever a Sentinel tells of another primary, until it is lost."""
        told = await self._dial(self._places[0], lambda _: on_switch())
        try:
            await told.request([("SUBSCRIBE", "+switch-master")])
            on_switch()  # one may have come meanwhile
            await asyncio.shield(told.lost)
        finally:
            told.close()

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def moved(self) -> bool:
        """Return whether the primary is no longer where it was; raises RedisError or OSError."""
        before = self.primary
        self.primary = None
        return await self._named() != before

    async def _named(self) -> Place:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_each())
        return await asyncio.shield(self._asking)

    async def _ask_each(self) -> Place:
        problems: list[str] = []
        last: Exception | None = None
        for place in list(self._places):
            try:
                self.primary = await self._ask(place)
            except (RedisError, OSError) as error:
                last = error
                self._places.append(self._places.pop(0))
                problems.append(f"{place}: {explained(error)}")
                continue
            if self._last not in (None, self.primary):
                _log.warning("the store's primary is %s now, it was %s", self.primary, self._last)
            self._last = self.primary
            return self.primary
        raise nobody(f"no Sentinel names a primary ({'; '.join(problems)})", last)

    async def _ask(self, place: Place) -> Place:
        link = await self._dial(place)
        try:
            question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
            (answer,) = await link.request([question])
        finally:
            link.close()
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise ConnectionError(f"knows no service {self._address.service!r}")
        host, port = answer
        return Place(host.decode(), int(port))

    async def _dial(self, place: Place, on_message: OnMessage | None = None) -> Link:
        return await dial(place, self._address.sentinel_access, self._patience, on_message)

    def _doubt(self, place: Place) -> None:
        if self.primary == place:
            # A Sentinel that was cut off names the old one for ever: the next one is asked.
            self._places.append(self._places.pop(0))
            self.primary = None


class WatchedPrimary:
    """The primary as one server that moves."""

    def __init__(self, links: Links, sentinels: Sentinels, patience: Patience) -> None:
        self._links = links
        self._sentinels = sentinels
        self._patience = patience
        self._switched = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def of(
        cls, links: Links, sentinels: Sentinels, patience: Patience
    ) -> AsyncIterator[Self]:
        """Follow the primary during the block; its links are closed at the end."""
        primary = cls(links, sentinels, patience)
        tasks = [asyncio.create_task(primary._listen()), asyncio.create_task(primary._follow())]
        try:
            yield primary
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await sentinels.close()
            await links.close()

    def at(self, key: str) -> Links:
        """See Servers."""
        return self._links

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """See Servers."""

        async def once() -> list[Any]:
            replies = await self._links.ask(commands)
            for reply in replies:
                if is_passing(reply):
                    self._links.failed(reply)
                    raise reply
            return replies

        return await until_served(once, self._patience.answer)

    def primaries(self) -> Sequence[Links]:
        """See Servers."""
        return [self._links]

    async def ask_all(self, commands: Sequence[Command]) -> list[list[Any]]:
        """See Servers."""
        return [await self.ask(commands)]

    async def dial(self, on_message: OnMessage | None = None) -> Link:
        """See Servers."""
        return await self._links.dial(on_message)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):
                await self._sentinels.listen(self._switched.set)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(self) -> None:
        """Leave a server that hangs as soon as the Sentinels have replaced it.

        One that was killed or restarted as a replica closes its links itself.
        """
        while True:
            await self._switched.wait()
            self._switched.clear()
            with contextlib.suppress(RedisError, OSError):
                if await self._sentinels.moved():
                    self._links.start_anew()
