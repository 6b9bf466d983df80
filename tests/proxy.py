"""A TCP proxy that breaks links on purpose: put it between a client and a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum

_CHUNK = 65536


class Direction(Enum):
    """Which way bytes flow."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class Proxy:
    """Forwards every connection to one target; made by `proxy`."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._flowing = {direction: asyncio.Event() for direction in Direction}
        self._delays = dict.fromkeys(Direction, 0.0)
        self._refusing = False
        self._swallows: Callable[[bytes], bool] = lambda _: False
        self.port = 0
        self.accepted = 0
        """Connections taken since the start, refused ones not counted."""
        for event in self._flowing.values():
            event.set()

    @property
    def open_links(self) -> int:
        """How many connections are forwarded now."""
        return len(self._links)

    async def cut(self) -> None:
        """Break every connection, without a farewell; new ones are taken as before."""
        links = list(self._links)
        for link in links:
            link.cancel()
        if links:
            await asyncio.wait(links)

    async def refuse(self) -> None:
        """Break every connection, and every new one at once, until `accept`."""
        self._refusing = True
        await self.cut()

    def accept(self) -> None:
        """Take new connections again."""
        self._refusing = False

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Refuse until the context is left."""
        await self.refuse()
        try:
            yield
        finally:
            self.accept()

    def pause(self, direction: Direction) -> None:
        """Hold back all bytes of one direction; the connections stay open, as if the net hung."""
        self._flowing[direction].clear()

    def resume(self, direction: Direction) -> None:
        """Let the bytes of a direction flow again, first those that were held back."""
        self._flowing[direction].set()

    @asynccontextmanager
    async def paused(self, direction: Direction) -> AsyncIterator[None]:
        """Hold back one direction until the context is left."""
        self.pause(direction)
        try:
            yield
        finally:
            self.resume(direction)

    def delay(self, direction: Direction, seconds: float) -> None:
        """Hold every chunk of a direction for some seconds; 0 ends it."""
        self._delays[direction] = seconds

    def swallow_replies(self, to: Callable[[bytes], bool]) -> None:
        """Forward what the function chooses of the bytes to the server, then break the link.

        The server has carried it out, and the client never hears of it.
        """
        self._swallows = to

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.refuse()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        self.accepted += 1
        link = asyncio.create_task(self._forward(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        # Here, because a task that is cancelled before its first step never gets to a `finally`.
        link.add_done_callback(lambda _: writer.transport.abort())

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_writer: asyncio.StreamWriter | None = None
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            doomed = asyncio.Event()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, server_writer, Direction.TO_SERVER, doomed))
                both.create_task(self._pump(server_reader, writer, Direction.TO_CLIENT, doomed))
        except* OSError:
            pass  # one side is gone: so is the link
        finally:
            if server_writer is not None:
                server_writer.transport.abort()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: Direction,
        doomed: asyncio.Event,
    ) -> None:
        while chunk := await source.read(_CHUNK):
            if direction is Direction.TO_SERVER and self._swallows(chunk):
                doomed.set()
            elif direction is Direction.TO_CLIENT and doomed.is_set():
                raise ConnectionAbortedError
            if self._delays[direction]:
                await asyncio.sleep(self._delays[direction])
            await self._flowing[direction].wait()
            sink.write(chunk)
            await sink.drain()
        # Half-close, so that the other direction may finish what it says.
        with suppress(OSError, NotImplementedError):
            sink.write_eof()


@asynccontextmanager
async def proxy(target_port: int, *, target_host: str = "127.0.0.1") -> AsyncIterator[Proxy]:
    """Listen on a free port of the loopback (`.port`) and forward to the target."""
    forwarding = Proxy(target_host, target_port)
    await forwarding.start()
    try:
        yield forwarding
    finally:
        await forwarding.stop()
