"""Opens what the store's URL names."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from services.session.adapters.address import Kind, Place, parse_address
from services.session.adapters.breaker import Breaker
from services.session.adapters.cluster import Cluster
from services.session.adapters.dialing import Patience, dial
from services.session.adapters.links import Links, Open
from services.session.adapters.sentinel import Sentinels, WatchedPrimary
from services.session.adapters.servers import Servers


@asynccontextmanager
async def servers_at(url: str, *, patience: Patience, connections: int) -> AsyncIterator[Servers]:
    """Keep links to the servers during the block; they open when they are needed.

    At most *connections* are lent at a time, of each server. Raises BadStoreUrl.
    """
    address = parse_address(url)

    def links(name: str, open_: Open, on_failure: Callable[[BaseException], None]) -> Links:
        breaker = Breaker(name, patience.answer)
        return Links(
            open_,
            breaker,
            connections=connections,
            wait=patience.answer,
            on_failure=on_failure,
        )

    def links_to(place: Place, on_failure: Callable[[BaseException], None]) -> Links:
        return links(str(place), partial(dial, place, address.access, patience), on_failure)

    if address.kind is Kind.CLUSTER:
        async with Cluster.of(address, patience, links_to) as cluster:
            yield cluster
    elif address.kind is Kind.SENTINEL:
        sentinels = Sentinels(address, patience)
        primary = links(address.service, sentinels.dial_primary, lambda _: None)
        async with WatchedPrimary.of(primary, sentinels, patience) as watched:
            yield watched
    else:
        async with _single(links_to(address.places[0], lambda _: None)) as server:
            yield server


@asynccontextmanager
async def _single(links: Links) -> AsyncIterator[Links]:
    try:
        yield links
    finally:
        await links.close()
