"""Making sure that the index exists, and finding where it is served. May be repeated at will."""

import asyncio
import logging
import time
from functools import partial
from typing import TypeAlias

from pinecone import AsyncIndex, AsyncPinecone, ConflictError, IndexModel, NotFoundError

from services.retrieval.adapters.pinecone_calls import Calls
from services.retrieval.errors import IndexMismatch, IndexUnavailable
from services.retrieval.settings import PineconeOptions

log = logging.getLogger(__name__)

METRIC = "cosine"
FIELD = "_values"
"""The name under which an index of plain vectors knows them."""
POLL_SECONDS = 0.5
ENDED = frozenset({"InitializationFailed", "Terminating", "Disabled"})

Control: TypeAlias = Calls[AsyncPinecone]


async def ensure_index(
    control: Control,
    name: str,
    *,
    dimension: int,
    options: PineconeOptions,
) -> str:
    """Return the host of the index, made if there is none.

    Raises IndexMismatch if the index of that name holds other vectors, and IndexUnavailable.
    """
    describe = partial(_described, name=name)
    model = await control.run("describe index", describe)
    if model is None:
        log.info("vector index: creating", extra={"index": name, "dimension": dimension})
        create = partial(_created, name=name, dimension=dimension, options=options)
        await control.run("create index", create)
        model = await control.run("describe index", describe)
    give_up = time.monotonic() + options.ready
    while model is None or not (model.status.ready and model.host):
        if model is not None and model.status.state in ENDED:
            raise IndexUnavailable(f"the vector index {name!r} is {model.status.state}")
        if time.monotonic() >= give_up:
            raise IndexUnavailable(f"the vector index {name!r} is not ready yet", retry_after=10.0)
        await asyncio.sleep(POLL_SECONDS)
        model = await control.run("describe index", describe)
    check(name, has=(model.dimension, model.metric), needs=dimension)
    return str(model.host)


async def check_index(calls: Calls[AsyncIndex], name: str, *, dimension: int) -> None:
    """Ask an index at a known host what it holds; raises IndexMismatch and IndexUnavailable."""
    stats = await calls.run("describe index", lambda index: index.describe_index_stats())
    check(name, has=(stats.dimension, stats.metric or METRIC), needs=dimension)


def check(name: str, *, has: tuple[int | None, str], needs: int) -> None:
    """Raise IndexMismatch unless the index holds vectors that this service can compare."""
    if has != (needs, METRIC):
        raise IndexMismatch(
            f"the index {name!r} holds vectors of dimension {has[0]} compared by {has[1]}: the "
            f"embedder makes {needs}, compared by {METRIC}. Name another index, or the embedder "
            "that this one was made for"
        )


async def _described(client: AsyncPinecone, *, name: str) -> IndexModel | None:
    try:
        return await client.indexes.describe(name)
    except NotFoundError:
        return None


async def _created(
    client: AsyncPinecone, *, name: str, dimension: int, options: PineconeOptions
) -> None:
    field = {"type": "dense_vector", "dimension": dimension, "metric": METRIC}
    place = {"deployment_type": "managed", "cloud": options.cloud, "region": options.region}
    try:
        # -1: not waited for here, where a lost connection would begin it all again.
        await client.indexes.create(
            name=name, schema={"fields": {FIELD: field}}, deployment=place, timeout=-1
        )
    except ConflictError:
        log.info("vector index: another process created it", extra={"index": name})
