"""Connections to the store: requests go out at once, replies come back in their order.

The client library spends a timer on each reply, a lock on each checkout and a task on each return
of a connection, which together cost several times what the commands do (docs/adr/0003). Here a
request is one future, what is asked at once is one write, and one timer guards all that waits.
"""

import asyncio
import builtins
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self, TypeAlias, cast

import hiredis
from redis._parsers import BaseParser
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's own name
    InvalidResponse,
    MaxConnectionsError,
    RedisError,
    TimeoutError,  # noqa: A004 - redis-py's own name
)

Command: TypeAlias = tuple[str | bytes | int, ...]
OnMessage: TypeAlias = Callable[[bytes], None]
"""Takes the name of the channel on which something was published."""

_NOTHING = object()
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment] # its stub allows one word


class _Request(NamedTuple):
    """What was asked on a link and is not answered in full."""

    size: int
    replies: list[Any]
    answer: asyncio.Future[list[Any]]
    due: float
    """When the answer must be here, on the loop's clock."""


class Link(asyncio.Protocol):
    """One connection. Once lost it stays lost, so a WATCH on it is never silently gone.

    Any number of callers may share it. One that is cancelled leaves nothing behind: the replies to
    its request are read and dropped.
    """

    def __init__(self, *, timeout: float, on_message: OnMessage | None = None) -> None:
        """Wait *timeout* seconds for an answer; without one the link is lost."""
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._on_message = on_message
        self._requests: deque[_Request] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._problem = "not connected yet"
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done once the connection is closed."""
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=BaseParser.parse_error,
            notEnoughData=_NOTHING,
        )

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return self._transport is not None

    def request(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send the commands; the answer has their replies, with errors as exceptions among them.

        What is asked in one round of the event loop goes out in one write. Raises ConnectionError
        if the link is lost already, and nothing was sent. The answer may fail with ConnectionError
        or TimeoutError: then nobody knows what was carried out.
        """
        if self._transport is None:
            raise ConnectionError(self._problem)
        packed = b"".join(map(_pack, commands))
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        due = self._loop.time() + self._timeout
        self._requests.append(_Request(len(commands), [], answer, due))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look_for_overdue)
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(packed)
        return answer

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None:
            self._transport.write(b"".join(unsent))

    def tell(self, commands: Sequence[Command]) -> None:
        """Send commands whose replies do not matter, if the link still stands."""
        with suppress(ConnectionError):
            self.request(commands).cancel()

    def close(self) -> None:
        """Give the connection up."""
        self._lose(ConnectionError, "closed")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                self._take(reply)
        except InvalidResponse as error:
            self._lose(ConnectionError, str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._lose(ConnectionError, str(exc or "closed by the server"))
        if self._timer is not None:
            self._timer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    def _take(self, reply: Any) -> None:
        if self._on_message is not None and isinstance(reply, list) and reply[0] == b"message":
            self._on_message(reply[1])
            return
        if not self._requests:
            self._lose(ConnectionError, "a reply to nothing")
            return
        request = self._requests[0]
        request.replies.append(reply)
        if len(request.replies) == request.size:
            self._requests.popleft()
            if not request.answer.done():
                request.answer.set_result(request.replies)

    def _look_for_overdue(self) -> None:
        self._timer = None
        if not self._requests:
            return
        due = self._requests[0].due
        if due <= self._loop.time():
            self._lose(TimeoutError, f"no reply within {self._timeout} s")
        else:
            self._timer = self._loop.call_at(due, self._look_for_overdue)

    def _lose(self, kind: type[RedisError], problem: str) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            self._problem = problem
            transport.abort()
        while self._requests:
            answer = self._requests.popleft().answer
            if not answer.done():
                answer.set_exception(kind(problem))


class Links:
    """The connections of one process: one that all share, and some that are lent one by one."""

    def __init__(self, url: str, *, timeout: float, connections: int) -> None:
        """Lend at most *connections*; *timeout* in seconds bounds opening and each answer."""
        self._url = url
        self._timeout = timeout
        self._places = asyncio.Semaphore(connections)
        self._idle: list[Link] = []
        self._open: set[Link] = set()
        self._shared: asyncio.Task[Link] | None = None

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str, *, timeout: float, connections: int) -> AsyncIterator[Self]:  # noqa: ASYNC109 - of each answer
        """Keep links to the server at *url* during the block; they open when they are needed."""
        links = cls(url, timeout=timeout, connections=connections)
        try:
            yield links
        finally:
            await links._close()

    async def shared(self) -> Link:
        """Return the link that all share. Raises RedisError or OSError if it cannot be opened."""
        opening = self._shared
        if opening is None or (opening.done() and not _opened(opening)):
            opening = self._shared = asyncio.create_task(self.dial())
        # Shielded, because others wait for it, too.
        return opening.result() if opening.done() else await asyncio.shield(opening)

    async def lend(self) -> Link:
        """Return a link that nobody else has until `take_back`. Raises RedisError or OSError."""
        await self._place()
        while self._idle:
            if (link := self._idle.pop()).alive:
                return link
        try:
            return await self.dial()
        except BaseException:
            self._places.release()
            raise

    async def _place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._places.acquire()
        except builtins.TimeoutError as error:
            message = f"none was given back within {self._timeout} s"
            raise MaxConnectionsError(message) from error

    def take_back(self, link: Link) -> None:
        """Let others have a link that was lent."""
        if link.alive:
            self._idle.append(link)
        self._places.release()

    async def dial(self, *, on_message: OnMessage | None = None) -> Link:
        """Open a link of the caller's own. Raises RedisError or OSError."""
        link = Link(timeout=self._timeout, on_message=on_message)
        try:
            async with asyncio.timeout(self._timeout):
                await _connect(link, parse_url(self._url))
        except BaseException:
            link.close()
            raise
        self._open.add(link)
        link.lost.add_done_callback(lambda _: self._open.discard(link))
        return link

    async def _close(self) -> None:
        if self._shared is not None:
            self._shared.cancel()
            await asyncio.wait([self._shared])
        links = list(self._open)
        for link in links:
            link.close()
        await asyncio.gather(*(link.lost for link in links))


def _opened(opening: asyncio.Task[Link]) -> bool:
    if opening.cancelled() or opening.exception() is not None:
        return False
    return opening.result().alive


async def _connect(link: Link, options: Any) -> None:
    """Connect and greet as the URL says; raises what the server refuses."""
    loop = asyncio.get_running_loop()
    kind = options.pop("connection_class", None)
    if (path := options.get("path")) is not None:
        opened: Coroutine[Any, Any, Any] = loop.create_unix_connection(lambda: link, path)
    else:
        tls = SSLConnection(**options).ssl_context.get() if kind is SSLConnection else None
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        opened = loop.create_connection(lambda: link, host, port, ssl=tls)
    transport, _ = await opened
    if path is None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for reply in await link.request([*_greeting(options), ("PING",)]):
        if isinstance(reply, Exception):
            raise reply


def _greeting(options: Any) -> list[Command]:
    commands: list[Command] = []
    if password := options.get("password"):
        user = options.get("username")
        commands.append(("AUTH", user, password) if user else ("AUTH", password))
    if database := options.get("db"):
        commands.append(("SELECT", database))
    return commands
