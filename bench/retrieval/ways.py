"""Ways to search at Pinecone, from one client for all to a new one for each."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import httpx
from pinecone import AsyncIndex

from bench.retrieval.site import Site
from services.retrieval.adapters.pinecone import open_handle, trusting
from services.retrieval.adapters.pinecone_calls import Calls
from services.retrieval.adapters.single_use import SingleUse
from services.retrieval.adapters.spares import Spares

Search = Callable[[int], Awaitable[None]]
Way = Callable[[Site], AbstractAsyncContextManager[Search]]


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
    opening = partial(SingleUse.to, trusted=trusting(site.options.ca_file))
    async with Spares(site.options.spares, opening, timeout=site.options.timeout) as spares:
        calls = Calls(
            site.host, site.options, partial(open_handle, site.host, site.options, spares.take)
        )

        async def search(number: int) -> None:
            await calls.run("search", lambda handle: site.search(handle, number))

        try:
            yield search
        finally:
            await calls.closed()


@asynccontextmanager
async def unbounded(site: Site) -> AsyncIterator[Search]:
    """Search as the service does, on as many connections as there are callers."""
    options = replace(site.options, connections=1000)
    async with ours(replace(site, options=options)) as search:
        yield search


@asynccontextmanager
async def connected_ahead(site: Site) -> AsyncIterator[Search]:
    """Search as the service does, on connections that were made before they were needed."""
    options = replace(site.options, spares=site.options.connections)
    async with ours(replace(site, options=options)) as search:
        yield search


WAYS: Mapping[str, Way] = MappingProxyType(
    {"shared": shared, "ours": ours, "connected ahead": connected_ahead, "naive": naive}
)


def _sdk_client(site: Site) -> AsyncIndex:
    trusted = httpx.create_ssl_context()
    trusted.load_verify_locations(site.options.ca_file)
    return AsyncIndex(
        host=site.host,
        api_key=site.options.api_key,
        ssl_verify=trusted,  # type: ignore[arg-type] # declared bool, handed on to httpx as it is
    )
