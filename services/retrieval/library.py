"""Adding, removing and searching documents: the registry decides, and jobs tell the index."""

import asyncio
import unicodedata
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256

from maieutic.v1.document_service_pb2 import Document, DocumentFormat, DocumentState
from services.retrieval.filtering import admits
from services.retrieval.jobs import Jobs
from services.retrieval.model import (
    Owner,
    Shared,
    checked_form,
    checked_name,
    new_document_id,
)
from services.retrieval.parsing.parser import Parser
from services.retrieval.ports import Hit, Vectors
from services.retrieval.ranking import Wanted, diverse, fused
from services.retrieval.registry import (
    Operation,
    Registered,
    Registration,
    Registry,
    Released,
    is_searchable,
)
from services.retrieval.upkeep import Uses
from services.retrieval.versions import Opened, Versions
from services.retrieval.watching import Watchers, changes
from services.runtime.names import DOCUMENTS_SEARCHED, EMBED_TEXTS, SEARCH_VECTORS, TEXTS
from services.runtime.telemetry import span

FRESH_SECONDS = 2.0
"""How long a search waits for a revision that it demands."""
FRESH_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A document as its owner sends it."""

    operation: Operation
    name: str
    """Of a document of its own; one whose content is replaced keeps its name."""
    format: DocumentFormat.ValueType
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A document that is safe."""

    document: Document
    indexes: bool
    """Whether it was added with this request, not before."""
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A hit, with the name of its document."""

    hit: Hit
    document_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlace:
    """Where to search besides documents that are named, and how fresh that must be."""

    shared: Sequence[Shared] = ()
    revision: int | None = None
    """Of the tenant's documents; None: as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a search found."""

    found: Sequence[Found]
    stale: bool
    """Something of the revision that was demanded cannot be searched yet."""


class Library:
    """The tenants' documents.

    A document is safe in the registry before it is indexed; a worker indexes it, and takes up again
    what was cut off.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        uses: Uses,
        jobs: Jobs,
        watchers: Watchers,
        versions: Versions,
        parser: Parser,
    ) -> None:
        self._registry = registry
        self._uses = uses
        self._jobs = jobs
        self._watchers = watchers
        self._versions = versions
        self._parser = parser

    async def accept(self, upload: Upload) -> Added:
        """Store a document, and have it indexed; raises BadDocument."""
        registration = await self._registration(upload, new_document_id())
        return await self._told(upload, await self._registry.register(registration))

    async def replace(self, upload: Upload, document_id: str) -> Added:
        """Give a document other content; raises BadDocument and DocumentNotFound."""
        registration = await self._registration(upload, document_id)
        return await self._told(upload, await self._registry.replace(registration))

    async def _registration(self, upload: Upload, document_id: str) -> Registration:
        name, form = checked_name(upload.name), checked_form(upload.format)
        content = await self._parser.admit(upload.content, form=form, name=name)
        document = Document(
            document_id=document_id,
            name=name,
            format=upload.format,
            size=len(content),
            content_hash=sha256(content).hexdigest(),
        )
        return Registration(
            operation=upload.operation,
            document=document,
            content=content,
            index_version=await self._versions.current_id(),
        )

    async def _told(self, upload: Upload, stored: Registered) -> Added:
        if stored.indexes:
            await self._jobs.publish(upload.operation.owner.tenant, stored.document.document_id)
        return Added(document=stored.document, indexes=stored.indexes, revision=stored.revision)

    def changes(self, owner: Owner, document_id: str) -> AsyncGenerator[Document, None]:
        """Yield the document after each change, until it is ready or failed."""
        return changes(self._registry, self._watchers, owner, document_id)

    async def settled(self, owner: Owner, document_id: str) -> Document:
        """Return the document once it is ready, failed or put off; raises DocumentNotFound."""
        seen: list[Document] = []
        async with aclosing(self.changes(owner, document_id)) as documents:
            async for document in documents:
                seen = [document]
                if document.failure:
                    break
        return seen[-1]

    async def remove(self, operation: Operation, document_id: str) -> int:
        """Give up the owner's reference; the document goes with its last one."""
        return await self._gone(operation, await self._registry.release(operation, document_id))

    async def share(self, operation: Operation, shared: Shared, document_ids: Sequence[str]) -> int:
        """Have a set or a collection refer to documents; raises DocumentNotFound."""
        return await self._registry.attach(operation, shared, document_ids)

    async def unshare(
        self, operation: Operation, shared: Shared, document_ids: Sequence[str]
    ) -> int:
        """End that, for all documents if none is named; each goes with its last reference."""
        released = await self._registry.detach(operation, shared, document_ids)
        return await self._gone(operation, released)

    async def _gone(self, operation: Operation, released: Released) -> int:
        for document_id in released.document_ids:
            await self._jobs.publish(operation.owner.tenant, document_id)
        return released.revision

    async def search(self, owner: Owner, wanted: Wanted, place: SearchPlace) -> Answer:
        """Return the passages that answer the query best, best first.

        Raises DocumentNotFound if one of the documents is not the owner's.
        """
        documents, stale = await self._searched(owner, wanted, place)
        await self._uses.note(owner, place.shared, wanted.document_ids)
        names = {
            id_: one.name
            for id_, one in documents.items()
            if is_searchable(one) and admits(wanted.filter, one)
        }
        query = unicodedata.normalize("NFC", wanted.query)
        async with self._versions.current() as opened:
            (vector,) = await _vectors(opened, [query], query=True)
            with span(SEARCH_VECTORS, attributes={DOCUMENTS_SEARCHED: len(names)}):
                near = await opened.index.search(
                    owner.tenant,
                    vector,
                    document_ids=names,
                    limit=max(wanted.limit, wanted.fetch),
                )
            hits = fused(query, [hit for hit in near if hit.score >= wanted.minimum_score])
            if wanted.mmr_lambda < 1:
                hits = await _diverse(opened, hits, wanted)
        found = [
            Found(hit=hit, document_name=names[hit.document_id]) for hit in hits[: wanted.limit]
        ]
        return Answer(found=found, stale=stale)

    async def _searched(
        self, owner: Owner, wanted: Wanted, place: SearchPlace
    ) -> tuple[Mapping[str, Document], bool]:
        """Return the documents to search, and whether they lack what was demanded."""
        loop = asyncio.get_running_loop()
        until, fresh = loop.time() + FRESH_SECONDS, place.revision is not None
        while True:
            documents = await self._registry.searched(
                owner, wanted.document_ids, place.shared, fresh=fresh
            )
            stale = any(_is_behind(one, place.revision) for one in documents.values())
            if not stale or loop.time() > until:
                return documents, stale
            await asyncio.sleep(FRESH_LOOK_SECONDS)


async def _diverse(opened: Opened, hits: Sequence[Hit], wanted: Wanted) -> list[Hit]:
    vectors = await _vectors(opened, [hit.chunk.text for hit in hits])
    chosen = diverse(vectors, mmr_lambda=wanted.mmr_lambda, limit=wanted.limit)
    return [hits[place] for place in chosen]


async def _vectors(opened: Opened, texts: Sequence[str], *, query: bool = False) -> Vectors:
    with span(EMBED_TEXTS, attributes={TEXTS: len(texts)}):
        return await opened.embedder.embed(texts, query=query)


def _is_behind(document: Document, revision: int | None) -> bool:
    """Whether the document is being changed by something that was demanded to be seen."""
    pending = document.state == DocumentState.DOCUMENT_STATE_PENDING
    return revision is not None and pending and document.revision <= revision
