"""A transport of httpx for one handle: its connections end with it, whatever happens.

httpx and what is below it forget a connection whose caller leaves while it is made: it stays open
until the garbage collector meets it. Here asyncio makes it, with TLS, in one step that closes what
it leaves unfinished, and takes a little less processor time.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self

import httpcore
import httpx

ONE_CONNECTION, KEPT = 1, 0
"""Of the pool of one handle."""


class SingleUse(httpx.AsyncHTTPTransport):
    """Has one connection at a time, which serves one request."""

    def __init__(self, trusted: ssl.SSLContext | None) -> None:
        """Connect with TLS if there is a context for it."""
        self._backend = _Backend(trusted)
        # In place of the pool that the base class would make, which takes no backend.
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=ONE_CONNECTION,
            max_keepalive_connections=KEPT,
            network_backend=self._backend,
            ssl_context=trusted,
        )

    @classmethod
    def to(cls, url: str, *, trusted: ssl.SSLContext) -> Self:
        """Return a transport for requests to that URL."""
        return cls(trusted if url.startswith("https:") else None)

    async def connect(self, host: str, port: int, *, timeout: float) -> None:  # noqa: ASYNC109
        """Make the connection of the next request now; raises httpcore's errors."""
        self._backend.ready = await self._backend.connected(host, port, timeout)

    @property
    def connected(self) -> bool:
        """Whether that connection is there, and not closed by the other side."""
        return self._backend.ready is not None and self._backend.ready.open

    async def aclose(self) -> None:
        """Close the connection, also one that no request has used."""
        await super().aclose()
        if self._backend.ready:
            await self._backend.ready.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, trusted: ssl.SSLContext | None) -> None:
        self._trusted = trusted
        self.ready: _Stream | None = None

    async def connected(self, host: str, port: int, timeout: float | None) -> "_Stream":  # noqa: ASYNC109
        async with _within(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            return _Stream(*await asyncio.open_connection(host, port, ssl=self._trusted))

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        ready, self.ready = self.ready, None
        return ready or await self.connected(host, port, timeout)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def open(self) -> bool:
        lost = self._reader.at_eof() or self._reader.exception() is not None
        return not (lost or self._writer.is_closing())

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        async with _within(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        async with _within(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            self._writer.write(buffer)
            await self._writer.drain()

    async def aclose(self) -> None:
        # Nothing is left to send, and the other side's farewell is not waited for.
        self._writer.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> httpcore.AsyncNetworkStream:
        # Done when the connection was made.
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._writer.get_extra_info(info)


@asynccontextmanager
async def _within(
    seconds: float | None, late: type[Exception], lost: type[Exception]
) -> AsyncIterator[None]:
    """Raise httpcore's errors for what takes longer, and for what the system says."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise late(error) from error
    except OSError as error:
        raise lost(error) from error
