"""Which documents there are and whose they are, as the archive knows it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceStub
from maieutic.v1.document_service_pb2 import Document
from services.retrieval.errors import DocumentNotFound
from services.retrieval.model import Owner
from services.retrieval.paging import Place
from services.runtime.errors import NotFound, from_rpc

OWNED_SECONDS = 10.0
"""How long a search trusts that a document is still its owner's. Within it a reference given up at
another replica may still be searched by its former owner, never by anybody else."""
REMEMBERED = 10_000
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


class Registry:
    """The archive's documents; raises what the archive raises."""

    def __init__(
        self, channel: grpc.aio.Channel, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._archive = ArchiveServiceStub(channel)
        self._owned = _Owned(clock)

    async def register(self, registration: Registration) -> Registered:
        """Store the document unless the tenant has its content, and refer the owner to it.

        Returns the stored one, whose name and format may be of an earlier registration.
        """
        response = await self._archive.RegisterDocument(_request(registration))
        return Registered(document=response.document, indexes=response.indexes)

    async def replace(self, registration: Registration) -> Registered:
        """Give the owner's document of that id other content; raises DocumentNotFound."""
        request = pb.ReplaceRegisteredDocumentRequest(registration=_request(registration))
        with _absence(registration.document.document_id):
            response = await self._archive.ReplaceRegisteredDocument(request)
        return Registered(document=response.document, indexes=response.indexes)

    async def get(self, owner: Owner, document_id: str, *, field: str = "document_id") -> Document:
        """Return one of the owner's documents; raises DocumentNotFound naming the *field*."""
        request = pb.GetRegisteredDocumentRequest(
            tenant=owner.tenant, user_id=owner.user, document_id=document_id
        )
        with _absence(document_id, field=field):
            response = await self._archive.GetRegisteredDocument(request)
        if _is_searchable(response.document):
            self._owned.remember(owner, response.document)
        return response.document

    async def page(self, owner: Owner, *, after: Place | None, limit: int) -> Sequence[Document]:
        """Return at most *limit* of the owner's documents, newest first."""
        request = pb.ListRegisteredDocumentsRequest(
            tenant=owner.tenant, user_id=owner.user, limit=limit
        )
        if after is not None:
            time_ = Timestamp(seconds=after.seconds, nanos=after.nanos)
            request.before_create_time.CopyFrom(time_)
            request.before_document_id = after.document_id
        return (await self._archive.ListRegisteredDocuments(request)).documents

    async def names(self, owner: Owner, document_ids: Sequence[str]) -> dict[str, str]:
        """Return the names of these documents, or of all the owner's if there are no ids.

        Of those of which a version is in the index. Raises DocumentNotFound,
        naming the field document_ids, unless all are the owner's.
        """
        if not document_ids:
            return _searchable([document async for document in self._all(owner)])
        owned = await asyncio.gather(
            *(
                self._owned_document(owner, document_id, field=f"document_ids[{index}]")
                for index, document_id in enumerate(document_ids)
            )
        )
        return _searchable(owned)

    async def release(self, operation: Operation, document_id: str) -> bool:
        """Drop the owner's reference; returns whether the document has no owner any more."""
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
        return response.last

    async def _owned_document(self, owner: Owner, document_id: str, *, field: str) -> Document:
        known = self._owned.recall(owner, document_id)
        return known or await self.get(owner, document_id, field=field)

    async def _all(self, owner: Owner) -> AsyncIterator[Document]:
        after: Place | None = None
        while documents := await self.page(owner, after=after, limit=LISTED_AT_A_TIME):
            for document in documents:
                yield document
            after = place_of(documents[-1])
            if len(documents) < LISTED_AT_A_TIME:
                return


def _request(registration: Registration) -> pb.RegisterDocumentRequest:
    operation = registration.operation
    return pb.RegisterDocumentRequest(
        tenant=operation.owner.tenant,
        user_id=operation.owner.user,
        request_id=operation.request_id,
        request_hash=operation.request_hash,
        document=registration.document,
        content=registration.content,
        index_version=registration.index_version,
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


def _searchable(documents: Iterable[Document]) -> dict[str, str]:
    return {one.document_id: one.name for one in documents if _is_searchable(one)}


def _is_searchable(document: Document) -> bool:
    """Whether a version of it is in the index, if an older one than is being indexed."""
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
