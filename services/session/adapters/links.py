"""The connections to one server: one that all share, and some that are lent one by one."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self, TypeAlias

from redis.exceptions import MaxConnectionsError, RedisError

from services.session.adapters.breaker import Breaker
from services.session.adapters.link import Command, Link, OnMessage
from services.session.adapters.passing import NotAsked, ends_link, is_failure
from services.session.ports import Pool

Open: TypeAlias = Callable[[OnMessage | None], Coroutine[Any, Any, Link]]
"""Opens a link to the server; raises RedisError or OSError."""


class Links:
    """Opens links when they are needed, and refuses to for a while if that is of no use."""

    def __init__(
        self,
        open_: Open,
        breaker: Breaker,
        *,
        connections: int,
        wait: float,
        on_failure: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """Lend at most *connections*, each within *wait* seconds.

        *on_failure* is told what was in the way each time the server did not serve.
        """
        self._open_link = open_
        self._breaker = breaker
        self._wait = wait
        self._on_failure = on_failure
        self._places = asyncio.Semaphore(connections)
        self._lent = 0
        self._waiting = 0
        self._idle: list[Link] = []
        self._open: set[Link] = set()
        self._opening: asyncio.Task[Link] | None = None
        self._link: Link | None = None

    def at(self, key: str) -> Self:
        """Return the links to the server that has the key."""
        return self

    def primaries(self) -> Sequence[Self]:
        """Return the links to each server that takes writes: these."""
        return [self]

    async def ask_all(self, commands: Sequence[Command]) -> list[list[Any]]:
        """Return the replies of every server that takes writes: of this one."""
        return [await self.ask(commands)]

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, errors as exceptions among them, over the link that all share.

        Raises RedisError or OSError, NotAsked among them if the server has not answered for long.
        """
        breaker, link = self._breaker, self._link
        if breaker.failing_since is not None:
            self._admit()
        try:
            if link is None or not link.alive:
                link = await self.shared()
            replies = await link.request(commands)
        except (RedisError, OSError) as error:
            self.failed(error)
            raise
        if breaker.failing_since is not None:
            self._look_for_failures(replies)
        return replies

    def _admit(self) -> None:
        try:
            self._breaker.admit()
        except NotAsked as error:
            self._on_failure(error)  # another server may have taken over meanwhile
            raise

    def _look_for_failures(self, replies: Sequence[Any]) -> None:
        if not any(is_failure(reply) for reply in replies):
            self._breaker.answered()

    async def shared(self) -> Link:
        """Return the link that all share. Raises RedisError or OSError if it cannot be opened."""
        if self._link is not None and self._link.alive:
            return self._link
        opening = self._opening
        if opening is None or opening.done():
            opening = self._opening = asyncio.create_task(self._open_shared())
        # Shielded, because others wait for it, too.
        return await asyncio.shield(opening)

    async def _open_shared(self) -> Link:
        self._link = await self.dial()
        return self._link

    async def lend(self) -> Link:
        """Return a link that nobody else has until `take_back`; raises as `ask` does."""
        if self._breaker.failing_since is not None:
            self._admit()
        await self._place()
        while self._idle:
            if (link := self._idle.pop()).alive:
                return link
        try:
            return await self.dial()
        except BaseException as error:
            self._give_back_place()
            if isinstance(error, RedisError | OSError):
                self.failed(error)
            raise

    def pool(self) -> Pool:
        """Return how many links are lent, and how many callers wait for one."""
        return Pool(lent=self._lent, waiting=self._waiting)

    async def _place(self) -> None:
        if self._places.locked():
            await self._wait_for_place()
        else:
            await self._places.acquire()
        self._lent += 1

    async def _wait_for_place(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait):
                await self._places.acquire()
        except TimeoutError as error:
            message = f"none was given back within {self._wait} s"
            raise MaxConnectionsError(message) from error
        finally:
            self._waiting -= 1

    def _give_back_place(self) -> None:
        self._lent -= 1
        self._places.release()

    def take_back(self, link: Link) -> None:
        """Let others have a link that was lent."""
        if link.alive:
            self._idle.append(link)
        self._give_back_place()

    async def dial(self, on_message: OnMessage | None = None) -> Link:
        """Open a link of the caller's own. Raises RedisError or OSError."""
        link = await self._open_link(on_message)
        self._open.add(link)
        link.lost.add_done_callback(lambda _: self._open.discard(link))
        return link

    def answered(self) -> None:
        """Note that a lent link has served its borrower."""
        if self._breaker.failing_since is not None:
            self._breaker.answered()

    def failed(self, error: BaseException) -> None:
        """Note what a link, or a reply, said instead of serving its caller."""
        if is_failure(error):
            self._breaker.failed()
        if ends_link(error):
            self.leave()
        self._on_failure(error)

    def start_anew(self) -> None:
        """Leave the server, because another one has taken over, whatever became of the old one."""
        self.leave()
        self.answered()

    def leave(self) -> None:
        """Close every link: the next ones go to whichever server is the right one then."""
        for link in list(self._open):
            link.close()

    async def close(self) -> None:
        """Close every link, and return when they are closed."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        links = list(self._open)
        self.leave()
        await asyncio.gather(*(link.lost for link in links))
