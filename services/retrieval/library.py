"""Adding, removing and searching documents: the registry first, then the index."""

import asyncio
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from maieutic.v1.document_service_pb2 import Document, DocumentFormat, DocumentState
from services.retrieval.errors import DocumentChanging
from services.retrieval.keyed_lock import KeyedLock
from services.retrieval.model import (
    Chunk,
    Content,
    Owner,
    Splitter,
    checked_form,
    checked_name,
    document_id,
)
from services.retrieval.parsing.parser import Parser
from services.retrieval.ports import Embedder, Hit, VectorIndex, Vectors
from services.retrieval.registry import Registration, Registry
from services.runtime.names import (
    CHUNK_SOURCE,
    CHUNKS_INDEXED,
    DOCUMENTS_SEARCHED,
    EMBED_TEXTS,
    SEARCH_VECTORS,
    TEXTS,
)
from services.runtime.telemetry import current, span

EMBEDDED_AT_A_TIME = 256
"""Chunks whose vectors are stored together: what a killed process may have to embed again."""
LINK_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A document as its owner sends it."""

    owner: Owner
    request_id: str
    request_hash: bytes
    name: str
    format: DocumentFormat.ValueType
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A searchable document, and what it took."""

    document: Document
    chunks_embedded: int
    chunks_reused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A hit, with the name of its document."""

    hit: Hit
    document_name: str


class Library:
    """The tenants' documents.

    A document is safe in the registry before it is indexed, and is called searchable after; every
    step may be repeated. So a call that was cut off anywhere is made good by making it again.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        index: VectorIndex,
        embedder: Embedder,
        parser: Parser,
        splitter: Splitter,
    ) -> None:
        self._registry = registry
        self._index = index
        self._embedder = embedder
        self._parser = parser
        self._splitter = splitter
        self._changing = KeyedLock()

    async def add(self, upload: Upload) -> Added:
        """Store and index a document; raises BadDocument."""
        name, form = checked_name(upload.name), checked_form(upload.format)
        content = (await self._parser.parse(upload.content, form=form, name=name)).content
        document = Document(
            document_id=document_id(upload.owner.tenant, content),
            name=name,
            format=upload.format,
            size=len(content.data),
            content_hash=content.hash,
        )
        registration = Registration(
            owner=upload.owner,
            request_id=upload.request_id,
            request_hash=upload.request_hash,
            document=document,
            content=content,
        )
        async with self._changing.holding((upload.owner.tenant, document.document_id)):
            added = await self._add(registration)
        _count_chunks(added)
        return added

    async def remove(self, owner: Owner, document_id: str) -> None:
        """Give up the owner's reference; the document goes with its last one."""
        async with self._changing.holding((owner.tenant, document_id)):
            if await self._registry.release(owner, document_id):
                await self._index.unlink(owner.tenant, document_id)

    async def search(
        self, owner: Owner, query: str, *, document_ids: Sequence[str], limit: int
    ) -> list[Found]:
        """Return the passages nearest to the query, best first.

        In these documents, or in all the owner's if there are no ids. Raises DocumentNotFound if
        one is not the owner's.
        """
        names = await self._registry.names(owner, document_ids)
        (vector,) = await self._vectors([unicodedata.normalize("NFC", query)])
        with span(SEARCH_VECTORS, attributes={DOCUMENTS_SEARCHED: len(names)}):
            hits = await self._index.search(owner.tenant, vector, document_ids=names, limit=limit)
        return [Found(hit=hit, document_name=names[hit.document_id]) for hit in hits]

    async def _add(self, registration: Registration) -> Added:
        stored = await self._registry.register(registration)
        tenant = registration.owner.tenant
        chunks = await self._chunks(registration.content, stored.format)
        # Also if it is searchable already: then this repairs an index that was lost.
        embedded = await self._indexed(tenant, stored.document_id, chunks)
        ready = stored.state == DocumentState.DOCUMENT_STATE_READY
        if not (ready and stored.chunk_count == len(chunks)):
            stored = await self._registry.finish(tenant, stored.document_id, len(chunks))
        return Added(
            document=stored, chunks_embedded=embedded, chunks_reused=len(chunks) - embedded
        )

    async def _chunks(self, content: Content, form: DocumentFormat.ValueType) -> list[Chunk]:
        # Large texts take long to split: not on the event loop.
        return await asyncio.to_thread(self._splitter.chunks, content, form)

    async def _indexed(self, tenant: str, document_id: str, chunks: Sequence[Chunk]) -> int:
        """Store what is new and link the document; returns how many chunks were embedded."""
        by_id = {chunk.id: chunk for chunk in chunks}
        embedded = 0
        for _ in range(LINK_ATTEMPTS):
            missing = await self._index.missing(tenant, by_id.keys())
            await self._embed(tenant, [by_id[id_] for id_ in by_id if id_ in missing])
            embedded += len(missing)
            # A chunk may go with another document's removal between the two calls.
            if await self._index.link(tenant, document_id, [chunk.id for chunk in chunks]):
                return embedded
        raise DocumentChanging(
            f"chunks of document {document_id!r} keep being removed: try again", retry_after=1.0
        )

    async def _embed(self, tenant: str, chunks: Sequence[Chunk]) -> None:
        for start in range(0, len(chunks), EMBEDDED_AT_A_TIME):
            some = chunks[start : start + EMBEDDED_AT_A_TIME]
            vectors = await self._vectors([chunk.text for chunk in some])
            await self._index.upsert(tenant, some, vectors)

    async def _vectors(self, texts: Sequence[str]) -> Vectors:
        with span(EMBED_TEXTS, attributes={TEXTS: len(texts)}):
            return await self._embedder.embed(texts)


def _count_chunks(added: Added) -> None:
    counter = current().counter(CHUNKS_INDEXED)
    counter.add(added.chunks_embedded, {CHUNK_SOURCE: "embedded"})
    counter.add(added.chunks_reused, {CHUNK_SOURCE: "reused"})
