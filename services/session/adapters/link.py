"""Connections to the store: requests go out at once, replies come back in their order.

The client library spends a timer on each reply, a lock on each checkout and a task on each return
of a connection, which together cost several times what the commands do (docs/adr/0003). Here a
request is one future, what is asked at once is one write, and one timer guards all that waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, cast

import hiredis
from redis._parsers import BaseParser
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

MOST_UNSENT_BYTES = 32 * 1024 * 1024
"""What may wait on a link for a server that takes it slowly, beside a request that waits alone."""
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
        self._unsent_bytes = 0
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
        if the link is lost already, and MaxConnectionsError if too much waits to be sent; then
        nothing was sent. The answer may fail with ConnectionError or TimeoutError: then nobody
        knows what was carried out.
        """
        if self._transport is None:
            raise ConnectionError(self._problem)
        packed = b"".join(map(_pack, commands))
        self._require_room(self._transport, len(packed))
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        due = self._loop.time() + self._timeout
        self._requests.append(_Request(len(commands), [], answer, due))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look_for_overdue)
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(packed)
        self._unsent_bytes += len(packed)
        return answer

    def _require_room(self, transport: asyncio.Transport, size: int) -> None:
        """Keep what waits within bounds: a server that stalls must not fill this process."""
        waiting = self._unsent_bytes + transport.get_write_buffer_size()
        if waiting and waiting + size > MOST_UNSENT_BYTES:
            raise MaxConnectionsError(f"{waiting} bytes wait to be sent on this link")

    def _send(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
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
