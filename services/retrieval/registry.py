"""Which documents there are and whose they are, as the archive knows it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceStub
from maieutic.v1.document_service_pb2 import Document, DocumentUsage
from services.retrieval.errors import DocumentNotFound
from services.retrieval.model import Owner, Shared, SharedKind
from services.retrieval.paging import Place
from services.retrieval.settings import LimitOptions
from services.runtime.errors import NotFound, from_rpc

OWNED_SECONDS = 10.0
"""How long a search trusts that a document is still its owner's. Within it a reference given up at
another replica may still be searched by its former owner, never by anybody else."""
REMEMBERED = 10_000
CONTENT_SECONDS = 30.0
"""For a call that brings a whole file."""
LISTED_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A request that changes something."""

    owner: Owner
    request_id: str
    request_hash: bytes
    """sha256 of the request: one request id is good for one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A document that an owner adds."""

    operation: Operation
    document: Document
    content: bytes
    index_version: str
    """What it is to be indexed under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A document in the registry."""

    document: Document
    indexes: bool
    """Whether the index has something to do for this request."""
    revision: int
    """Of the tenant's documents, once this is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What giving up references has left."""

    document_ids: Sequence[str]
    """To be removed from the index."""
    revision: int


SCOPES = MappingProxyType(
    {
        SharedKind.SET: pb.DOCUMENT_SCOPE_SET,
        SharedKind.COLLECTION: pb.DOCUMENT_SCOPE_COLLECTION,
    }
)


class Registry:
    """The archive's documents; raises what the archive raises."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        limits: LimitOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._archive = ArchiveServiceStub(channel)
        self._limits = limits
        self._owned = _Owned(clock)

    async def register(self, registration: Registration) -> Registered:
        """Store the document unless the tenant has its content, and refer the owner to it.

        Returns the stored one, whose name and format may be of an earlier registration.
        """
        response = await self._archive.RegisterDocument(
            _request(registration, self._limits), timeout=CONTENT_SECONDS
        )
        return Registered(
            document=response.document, indexes=response.indexes, revision=response.revision
        )

    async def replace(self, registration: Registration) -> Registered:
        """Give the owner's document of that id other content; raises DocumentNotFound."""
        request = pb.ReplaceRegisteredDocumentRequest(
            registration=_request(registration, self._limits)
        )
        with _absence(registration.document.document_id):
            response = await self._archive.ReplaceRegisteredDocument(
                request, timeout=CONTENT_SECONDS
            )
        return Registered(
            document=response.document, indexes=response.indexes, revision=response.revision
        )

    async def get(self, owner: Owner, document_id: str, *, field: str = "document_id") -> Document:
        """Return one of the owner's documents; raises DocumentNotFound naming the *field*."""
        request = pb.GetRegisteredDocumentRequest(
            tenant=owner.tenant, user_id=owner.user, document_id=document_id
        )
        with _absence(document_id, field=field):
            response = await self._archive.GetRegisteredDocument(request)
        if is_searchable(response.document):
            self._owned.remember(owner, response.document)
        return response.document

    async def usage(self, owner: Owner, document_id: str) -> tuple[Document, DocumentUsage]:
        """Return one of the owner's documents with who has it; raises DocumentNotFound."""
        request = pb.GetRegisteredDocumentRequest(
            tenant=owner.tenant, user_id=owner.user, document_id=document_id, with_usage=True
        )
        with _absence(document_id):
            response = await self._archive.GetRegisteredDocument(request)
        return response.document, response.usage

    async def page(
        self, owner: Owner, shared: Shared | None = None, *, after: Place | None, limit: int
    ) -> Sequence[Document]:
        """Return at most *limit* of the owner's or of the shared documents, newest first."""
        request = pb.ListRegisteredDocumentsRequest(
            tenant=owner.tenant, user_id=owner.user, limit=limit
        )
        if shared is not None:
            request.scope, request.owner = SCOPES[shared.kind], shared.name
        if after is not None:
            time_ = Timestamp(seconds=after.seconds, nanos=after.nanos)
            request.before_create_time.CopyFrom(time_)
            request.before_document_id = after.document_id
        return (await self._archive.ListRegisteredDocuments(request)).documents

    async def searched(
        self,
        owner: Owner,
        document_ids: Sequence[str],
        shared: Sequence[Shared] = (),
        *,
        fresh: bool = False,
    ) -> dict[str, Document]:
        """Return these documents and what is shared so, or all the owner's if nothing is named.

        *fresh* asks the archive also for what was known a moment ago. Raises DocumentNotFound,
        naming the field document_ids, unless all are the owner's or a collection's, and NotFound
        for a set of nothing.
        """
        if not document_ids and not shared:
            return _by_id([document async for document in self._all(owner, None)])
        named = await asyncio.gather(
            *(
                self._owned_document(owner, document_id, f"document_ids[{place}]", fresh=fresh)
                for place, document_id in enumerate(document_ids)
            )
        )
        parts = await asyncio.gather(*(self._members(owner, one) for one in shared))
        return _by_id([*named, *(document for part in parts for document in part)])

    async def _members(self, owner: Owner, shared: Shared) -> list[Document]:
        found = [document async for document in self._all(owner, shared)]
        if not found and shared.kind is SharedKind.SET:
            raise NotFound("document set", shared.name)
        return found

    async def attach(
        self, operation: Operation, shared: Shared, document_ids: Sequence[str]
    ) -> int:
        """Share documents; returns the tenant's revision. Raises DocumentNotFound."""
        request = pb.AttachDocumentsRequest(
            tenant=operation.owner.tenant,
            user_id=operation.owner.user,
            request_id=operation.request_id,
            request_hash=operation.request_hash,
            scope=SCOPES[shared.kind],
            owner=shared.name,
            document_ids=document_ids,
        )
        await asyncio.gather(
            *(
                self.get(operation.owner, document_id, field=f"document_ids[{place}]")
                for place, document_id in enumerate(document_ids)
            )
        )
        with _absence("", field="document_ids"):
            return (await self._archive.AttachDocuments(request)).revision

    async def detach(
        self, operation: Operation, shared: Shared, document_ids: Sequence[str]
    ) -> Released:
        """Share documents no more, all of them if none is named."""
        response = await self._archive.DetachDocuments(
            pb.DetachDocumentsRequest(
                tenant=operation.owner.tenant,
                user_id=operation.owner.user,
                request_id=operation.request_id,
                request_hash=operation.request_hash,
                scope=SCOPES[shared.kind],
                owner=shared.name,
                document_ids=document_ids,
            )
        )
        return Released(document_ids=response.released_document_ids, revision=response.revision)

    async def release(self, operation: Operation, document_id: str) -> Released:
        """Drop the owner's reference."""
        owner = operation.owner
        self._owned.forget(owner, document_id)
        response = await self._archive.ReleaseDocument(
            pb.ReleaseDocumentRequest(
                tenant=owner.tenant,
                user_id=owner.user,
                document_id=document_id,
                request_id=operation.request_id,
                request_hash=operation.request_hash,
            )
        )
        # Once more: a search that began before the release may have remembered it meanwhile.
        self._owned.forget(owner, document_id)
        return Released(
            document_ids=[document_id] if response.last else (), revision=response.revision
        )

    async def _owned_document(
        self, owner: Owner, document_id: str, field: str, *, fresh: bool
    ) -> Document:
        known = None if fresh else self._owned.recall(owner, document_id)
        return known or await self.get(owner, document_id, field=field)

    async def _all(self, owner: Owner, shared: Shared | None) -> AsyncIterator[Document]:
        after: Place | None = None
        while documents := await self.page(owner, shared, after=after, limit=LISTED_AT_A_TIME):
            for document in documents:
                yield document
            after = place_of(documents[-1])
            if len(documents) < LISTED_AT_A_TIME:
                return


def _request(registration: Registration, limits: LimitOptions) -> pb.RegisterDocumentRequest:
    operation = registration.operation
    return pb.RegisterDocumentRequest(
        tenant=operation.owner.tenant,
        user_id=operation.owner.user,
        request_id=operation.request_id,
        request_hash=operation.request_hash,
        document=registration.document,
        content=registration.content,
        index_version=registration.index_version,
        most_documents=limits.documents_per_tenant,
        most_bytes=limits.bytes_per_tenant,
    )


@contextmanager
def _absence(document_id: str, *, field: str = "document_id") -> Iterator[None]:
    """Raise DocumentNotFound naming the *field* if the archive does not find the document."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if isinstance(from_rpc(error), NotFound):
            raise DocumentNotFound(document_id, field=field) from error
        raise


def place_of(document: Document) -> Place:
    """Return where the document stands in its owner's list."""
    created = document.create_time
    return Place(seconds=created.seconds, nanos=created.nanos, document_id=document.document_id)


def _by_id(documents: Iterable[Document]) -> dict[str, Document]:
    return {document.document_id: document for document in documents}


def is_searchable(document: Document) -> bool:
    """Return whether a version of it is in the index, if an older one than is to be."""
    return document.indexed_version > 0


class _Owned:
    """Documents that were their owner's a moment ago; the oldest are forgotten first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._documents: OrderedDict[tuple[Owner, str], tuple[float, Document]] = OrderedDict()

    def remember(self, owner: Owner, document: Document) -> None:
        key = owner, document.document_id
        self._documents[key] = (self._clock() + OWNED_SECONDS, document)
        self._documents.move_to_end(key)
        if len(self._documents) > REMEMBERED:
            self._documents.popitem(last=False)

    def recall(self, owner: Owner, document_id: str) -> Document | None:
        until, document = self._documents.get((owner, document_id), (0.0, None))
        return document if self._clock() < until else None

    def forget(self, owner: Owner, document_id: str) -> None:
        self._documents.pop((owner, document_id), None)
