"""Ways to search at Pinecone, from one client for all to a new one for each."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlsplit

import httpcore
import httpx
from pinecone import AsyncIndex

from bench.retrieval.site import Site
from services.retrieval.adapters.pinecone import open_handle, trusting
from services.retrieval.adapters.pinecone_calls import Calls

Search = Callable[[int], Awaitable[None]]
Way = Callable[[Site], AbstractAsyncContextManager[Search]]

AHEAD = 10
"""Connections that are made before they are needed: as many as may be open at once."""


@asynccontextmanager
async def shared(site: Site) -> AsyncIterator[Search]:
    """Search on one client of the SDK, with its own retries and its own number of connections."""
    async with _sdk_client(site) as handle:
        yield partial(site.search, handle)


@asynccontextmanager
async def naive(site: Site) -> AsyncIterator[Search]:
    """Search on a new client of the SDK each time, made as its documentation does."""

    async def search(number: int) -> None:
        async with _sdk_client(site) as handle:
            await site.search(handle, number)

    yield search


@asynccontextmanager
async def ours(site: Site) -> AsyncIterator[Search]:
    """Search as the service does, retries and measurements included."""
    trusted = trusting(site.options.ca_file)
    async with _searching(site, partial(open_handle, site.host, site.options, trusted)) as search:
        yield search


@asynccontextmanager
async def unbounded(site: Site) -> AsyncIterator[Search]:
    """Search as the service does, on as many connections as there are callers."""
    options = replace(site.options, connections=1000)
    async with ours(replace(site, options=options)) as search:
        yield search


@asynccontextmanager
async def connected_ahead(site: Site) -> AsyncIterator[Search]:
    """Search as the service does, on connections that were made before they were needed."""
    async with _Ahead(site) as ahead, _searching(site, ahead.take) as search:
        yield search


WAYS: Mapping[str, Way] = MappingProxyType(
    {"shared": shared, "ours": ours, "connected ahead": connected_ahead, "naive": naive}
)


@asynccontextmanager
async def _searching(site: Site, open_: Callable[[], AsyncIndex]) -> AsyncIterator[Search]:
    calls = Calls(site.host, site.options, open_)

    async def search(number: int) -> None:
        await calls.run("search", lambda handle: site.search(handle, number))

    try:
        yield search
    finally:
        await calls.closed()


def _sdk_client(site: Site) -> AsyncIndex:
    trusted = httpx.create_ssl_context()
    trusted.load_verify_locations(site.options.ca_file)
    return AsyncIndex(
        host=site.host,
        api_key=site.options.api_key,
        ssl_verify=trusted,  # type: ignore[arg-type] # declared bool, handed on to httpx as it is
    )


class _Ahead:
    """Handles whose connection is there already."""

    def __init__(self, site: Site) -> None:
        trusted = trusting(site.options.ca_file)
        self._open = partial(open_handle, site.host, site.options, trusted)
        self._address = urlsplit(site.host)
        self._ready: deque[AsyncIndex] = deque()
        self._making: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(self._make() for _ in range(AHEAD)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._making)
        await asyncio.gather(*(handle.close() for handle in self._ready))

    def take(self) -> AsyncIndex:
        """Return a handle, and begin to make another in its place."""
        task = asyncio.ensure_future(self._make())
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        return self._ready.popleft() if self._ready else self._open()

    async def _make(self) -> None:
        handle = self._open()
        pool = _pool(handle)
        host, port = str(self._address.hostname), int(self._address.port or 443)
        stream = await pool._network_backend.connect_tcp(host, port)  # noqa: SLF001
        pool._network_backend = _Made(stream)  # noqa: SLF001
        self._ready.append(handle)


class _Made(httpcore.AsyncNetworkBackend):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        return self._stream


def _pool(handle: AsyncIndex) -> httpcore.AsyncConnectionPool:
    client = handle._http._client  # noqa: SLF001
    transport = client._transport if client else None  # noqa: SLF001
    if not isinstance(transport, httpx.AsyncHTTPTransport):
        raise TypeError("the handle has another transport")
    pool = transport._pool  # noqa: SLF001
    if not isinstance(pool, httpcore.AsyncConnectionPool):
        raise TypeError("the transport has another pool")
    return pool
