"""Vectors at Pinecone."""

import asyncio
import logging
import ssl
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import cache, partial
from itertools import islice
from typing import Self, TypeVar

import httpx
import numpy as np
from pinecone import AsyncIndex, AsyncPinecone, NotFoundError
from pinecone._internal.http_client import AsyncHTTPClient

from services.retrieval.adapters.pinecone_calls import Calls
from services.retrieval.adapters.pinecone_control import check_index, ensure_index
from services.retrieval.adapters.pinecone_faults import is_no_namespace
from services.retrieval.adapters.pinecone_records import (
    Record,
    embedded_of,
    hit_of,
    ids_of,
    numbers,
    prefix_of,
    record_id,
    records_of,
    requests_of,
    space_of,
)
from services.retrieval.adapters.single_use import SingleUse
from services.retrieval.adapters.spares import Spares
from services.retrieval.errors import IndexUnavailable
from services.retrieval.model import Chunk
from services.retrieval.ports import Embedded, Hit, Vectors
from services.retrieval.settings import PineconeOptions

log = logging.getLogger(__name__)

T = TypeVar("T")
Transports = Callable[[str], SingleUse]
"""Returns one for requests to a URL."""

CHUNKS_ASKED_FOR = 1000
"""At a time, by their ids."""
CHUNKS_READ = 100
"""At a time, with texts and vectors: an answer has at most 4 MB."""
DELETED_AT_A_TIME = 500
MOST_MATCHES = 1000
"""That Pinecone returns with their metadata."""
MOST_SEARCHED = 10_000
"""Documents that a filter may name."""
HELD_CHUNKS = 20_000
SETTLE_POLL_SECONDS = 0.2


class PineconeVectorIndex:
    """A `VectorIndex` on a serverless index, for any number of processes.

    Chunks that are stored are held by this process, and are written with the document that is
    linked to them: a record belongs to one document. A document that takes several requests is
    found in parts until `link` returns, and then whole.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Calls[AsyncIndex]]],
        *,
        space: Callable[[str], str],
        dimension: int,
        settled: float,
    ) -> None:
        """Find the index by *connect*; *space* turns a tenant into Pinecone's namespace.

        *settled* is how many seconds writes may take until they can be searched.
        """
        self._connect = connect
        self._connecting = asyncio.Lock()
        self._calls: Calls[AsyncIndex] | None = None
        self._space = space
        self._dimension = dimension
        self._settled = settled
        self._held: dict[tuple[str, str], Embedded] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, name: str, options: PineconeOptions, *, embedder: str, dimension: int
    ) -> AsyncIterator[Self]:
        """Use the index of that name, made if there is none; if Pinecone is away, once it is back.

        Raises IndexMismatch if it holds other vectors, and IndexRefused.
        """
        opening = partial(SingleUse.to, trusted=trusting(options.ca_file))
        async with Spares(options.spares, opening, timeout=options.timeout) as spares:
            index = cls(
                partial(connected, name, options, spares.take, dimension=dimension),
                space=partial(space_of, options.scope, embedder),
                dimension=dimension,
                settled=options.settled,
            )
            try:
                await index._connected()
            except IndexUnavailable as error:
                log.warning("vector index: away, looked for again when needed", exc_info=error)
            try:
                yield index
            finally:
                if index._calls:
                    await index._calls.closed()

    async def missing(self, namespace: str, chunk_ids: Collection[str]) -> frozenset[str]:
        """Return those of the ids that are not stored."""
        known = await self._known(self._space(namespace), chunk_ids)
        return frozenset(chunk_ids) - known.keys()

    async def upsert(
        self, namespace: str, document_id: str, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Hold the chunks with their vectors, [len(chunks), dimension], for the document's link."""
        space = self._space(namespace)
        for chunk, vector in zip(chunks, vectors, strict=True):
            self._held[space, chunk.id] = Embedded(chunk=chunk, vector=np.array(vector))
        # What a failed call left behind goes first.
        for oldest in list(islice(self._held, max(0, len(self._held) - HELD_CHUNKS))):
            del self._held[oldest]

    async def link(self, namespace: str, document_id: str, chunk_ids: Sequence[str]) -> bool:
        """Make the document consist of exactly these chunks; False if one is not stored."""
        space = self._space(namespace)
        known = await self._known(space, chunk_ids)
        if len(known) < len(set(chunk_ids)):
            return False
        written = await self._write(space, records_of(document_id, chunk_ids, known))
        await self._settle(space, written)
        has = await self._run("list", partial(_listed, space, prefix_of(document_id)))
        await self._delete(space, has - {record_id(document_id, one) for one in chunk_ids})
        for chunk_id in known:
            self._held.pop((space, chunk_id), None)
        return True

    async def unlink(self, namespace: str, document_id: str) -> None:
        """Remove the document with its vectors."""
        space = self._space(namespace)
        has = await self._run("list", partial(_listed, space, prefix_of(document_id)))
        await self._delete(space, has)

    async def count(self, namespace: str, document_id: str) -> int:
        """Return how many distinct chunks are stored for the document."""
        space = self._space(namespace)
        return len(await self._run("list", partial(_listed, space, prefix_of(document_id))))

    async def contents(self, namespace: str) -> Mapping[str, frozenset[str]]:
        """Return the ids of each linked document's chunks."""
        found: dict[str, set[str]] = {}
        for record in await self._run("list", partial(_listed, self._space(namespace), "")):
            document_id, chunk_id = ids_of(record)
            found.setdefault(document_id, set()).add(chunk_id)
        return {document_id: frozenset(ids) for document_id, ids in found.items()}

    async def read(self, namespace: str, chunk_ids: Collection[str]) -> Sequence[Embedded]:
        """Return those of the chunks that are stored, with their vectors."""
        return list((await self._known(self._space(namespace), chunk_ids)).values())

    async def search(
        self, namespace: str, vector: Vectors, *, document_ids: Collection[str], limit: int
    ) -> list[Hit]:
        """Return the chunks of these documents nearest to the vector, best first."""
        if limit < 1:
            return []
        space, wanted = self._space(namespace), list(dict.fromkeys(document_ids))
        hits = [
            hit
            for some in _parts(wanted, MOST_SEARCHED)
            for hit in await self._nearest(space, vector, some, limit)
        ]
        return _distinct(sorted(hits, key=lambda hit: -hit.score))[:limit]

    async def _run(self, operation: str, work: Callable[[AsyncIndex], Awaitable[T]]) -> T:
        calls = self._calls or await self._connected()
        return await calls.run(operation, work)

    async def _connected(self) -> Calls[AsyncIndex]:
        async with self._connecting:
            if self._calls is None:
                self._calls = await self._connect()
            return self._calls

    async def _nearest(
        self, space: str, vector: Vectors, document_ids: Sequence[str], limit: int
    ) -> list[Hit]:
        top = min(limit, MOST_MATCHES)
        while True:
            query = partial(_query, space, numbers(vector), document_ids, top)
            found = await self._run("search", query)
            hits = _distinct(found)
            if len(hits) >= limit or len(found) < top or top == MOST_MATCHES:
                return hits
            # The same chunk in several documents took the places of others.
            top = min(2 * top, MOST_MATCHES)

    async def _known(self, space: str, chunk_ids: Collection[str]) -> dict[str, Embedded]:
        """Return those of the chunks that are held here or are part of a document."""
        keys = ((space, chunk_id) for chunk_id in chunk_ids)
        known = {key[1]: self._held[key] for key in keys if key in self._held}
        for some in _parts(sorted(set(chunk_ids) - known.keys()), CHUNKS_ASKED_FOR):
            known |= await self._stored(space, some)
        return known

    async def _stored(self, space: str, chunk_ids: Sequence[str]) -> dict[str, Embedded]:
        # A chunk of many documents may fill an answer alone: then the others are asked for again.
        found: dict[str, Embedded] = {}
        while wanted := [chunk_id for chunk_id in chunk_ids if chunk_id not in found]:
            some, complete = await self._run("read chunks", partial(_chunks, space, wanted))
            found |= some
            if complete or not some:
                break
        return found

    async def _write(self, space: str, records: Iterable[Record]) -> int | None:
        """Return the place of the last write in the namespace's log, None if that is not told."""
        written = None
        for some in requests_of(records):
            written = await self._run("write", partial(_upserted, space, some))
        return written

    async def _settle(self, space: str, written: int | None) -> None:
        """Return once a search sees that write: reads lag behind writes, by seconds at times."""
        give_up = time.monotonic() + self._settled
        while written is not None:
            seen = await self._run("settle", partial(_seen, space, self._dimension))
            if seen is None or seen >= written:
                return
            if time.monotonic() > give_up:
                message = "the document is stored, but cannot be searched yet"
                raise IndexUnavailable(message, retry_after=1.0)
            await asyncio.sleep(SETTLE_POLL_SECONDS)

    async def _delete(self, space: str, ids: Collection[str]) -> None:
        for some in _parts(sorted(ids), DELETED_AT_A_TIME):
            await self._run("delete", partial(_deleted, space, some))


async def connected(
    name: str, options: PineconeOptions, transport: Transports, *, dimension: int
) -> Calls[AsyncIndex]:
    """Find the index of that name, or make it, and see that it is for such vectors."""
    if not options.host:
        opening = partial(open_client, options, trusting(options.ca_file))
        control = Calls(options.control_host, options, opening)
        host = await ensure_index(control, name, dimension=dimension, options=options)
        return Calls(host, options, partial(open_handle, host, options, transport))
    calls = Calls(options.host, options, partial(open_handle, options.host, options, transport))
    await check_index(calls, name, dimension=dimension)
    return calls


@cache
def trusting(ca_file: str) -> ssl.SSLContext:
    """Return the process's SSL context for these authorities; to make one takes 25 ms."""
    if not ca_file:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=ca_file)


def open_handle(host: str, options: PineconeOptions, transport: Transports) -> AsyncIndex:
    """Return a client of the index for one attempt."""
    handle = AsyncIndex(host=host, api_key=options.api_key)
    _connect_once(handle._http, handle.host, options, transport)  # noqa: SLF001
    return handle


def open_client(options: PineconeOptions, trusted: ssl.SSLContext) -> AsyncPinecone:
    """Return a client of the control plane and of inference for one attempt."""
    client = AsyncPinecone(options.api_key, host=options.control_host)
    for http in (client._http, client.inference._http):  # noqa: SLF001
        transport = partial(SingleUse.to, trusted=trusted)
        _connect_once(http, options.control_host, options, transport)
    return client


def _connect_once(
    http: AsyncHTTPClient, host: str, options: PineconeOptions, transport: Transports
) -> None:
    """Give the SDK's client connections that end with it, and no retries of its own.

    It takes no transport, but makes its own at first use, which would retry in secret.
    """
    http._client = httpx.AsyncClient(  # noqa: SLF001
        base_url=host,
        headers=http._headers,  # noqa: SLF001
        timeout=options.timeout,
        transport=transport(host),
    )


async def _upserted(space: str, records: Sequence[Record], index: AsyncIndex) -> int | None:
    answer = await index.upsert(vectors=records, namespace=space)
    return answer.response_info.lsn_committed if answer.response_info else None


async def _seen(space: str, dimension: int, index: AsyncIndex) -> int | None:
    """Return how far searches see the namespace's log, None if that is not told."""
    anything = [1.0, *(0.0 for _ in range(dimension - 1))]
    answer = await index.query(vector=anything, top_k=1, namespace=space)
    return answer.response_info.lsn_reconciled if answer.response_info else None


async def _deleted(space: str, ids: Sequence[str], index: AsyncIndex) -> None:
    try:
        await index.delete(ids=ids, namespace=space)
    except NotFoundError as error:
        if not is_no_namespace(error):
            raise


async def _listed(space: str, prefix: str, index: AsyncIndex) -> frozenset[str]:
    try:
        pages = index.list(prefix=prefix, namespace=space)
        return frozenset([str(one.id) async for page in pages for one in page.vectors])
    except NotFoundError as error:
        if is_no_namespace(error):
            return frozenset()
        raise


async def _chunks(
    space: str, chunk_ids: Sequence[str], index: AsyncIndex
) -> tuple[dict[str, Embedded], bool]:
    """Return chunks by id, and whether no more of them are stored."""
    wanted = {"chunk": {"$in": list(chunk_ids)}}
    try:
        page = await index.fetch_by_metadata(filter=wanted, namespace=space, limit=CHUNKS_READ)
    except NotFoundError as error:
        if is_no_namespace(error):
            return {}, True
        raise
    records = [embedded_of(one.metadata, one.values) for one in page.vectors.values()]
    more = page.pagination is not None and page.pagination.next
    return {one.chunk.id: one for one in records}, not more


async def _query(
    space: str, vector: Sequence[float], document_ids: Sequence[str], top: int, index: AsyncIndex
) -> list[Hit]:
    found = await index.query(
        vector=vector,
        top_k=top,
        namespace=space,
        filter={"document": {"$in": list(document_ids)}},
        include_metadata=True,
    )
    return [hit_of(match.metadata, match.score) for match in found.matches]


def _distinct(hits: Iterable[Hit]) -> list[Hit]:
    """Return each chunk's first hit, in the given order."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.chunk.id, hit)
    return list(best.values())


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
