"""gRPC in, library call, gRPC out."""

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any, TypeAlias

import grpc

from maieutic.v1 import document_service_pb2 as pb
from maieutic.v1.document_service_pb2_grpc import DocumentServiceServicer
from services.retrieval.errors import BadDocument
from services.retrieval.library import Added, Found, Library, SearchPlace, Upload
from services.retrieval.model import (
    Owner,
    Shared,
    SharedKind,
    document_set_id,
    parse_version_token,
    version_token,
)
from services.retrieval.paging import page_size, page_token, parse_page_token
from services.retrieval.ranking import Wanted
from services.retrieval.registry import Operation, Registry, place_of
from services.retrieval.uploading import Uploads
from services.runtime.errors import InvalidArgument
from services.runtime.identity import current_identity

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

Changing: TypeAlias = (
    pb.AddDocumentRequest
    | pb.ReplaceDocumentRequest
    | pb.DeleteDocumentRequest
    | pb.CreateDocumentSetRequest
    | pb.AttachDocumentsRequest
    | pb.DetachDocumentsRequest
)

DEFAULT_PASSAGES = 5
MOST_PASSAGES = 50
DEFAULT_FETCHED = 20
MOST_FETCHED = 200


class DocumentServicer(DocumentServiceServicer):
    """The documents of the tenant and user whom the caller's token names."""

    def __init__(self, *, library: Library, registry: Registry, uploads: Uploads) -> None:
        self._uploads = uploads
        self._library = library
        self._registry = registry

    async def AddDocument(
        self, request: pb.AddDocumentRequest, context: Context
    ) -> pb.AddDocumentResponse:
        """Store a document and have it indexed."""
        upload = _upload(request, request.name)
        added = await self._library.accept(upload)
        document, embedded = await self._settled(upload, added, wait=not request.accept_only)
        reused = document.chunk_count - embedded
        return pb.AddDocumentResponse(
            document=document,
            chunks_embedded=embedded,
            chunks_reused=reused,
            version_token=version_token(added.revision),
        )

    async def ReplaceDocument(
        self, request: pb.ReplaceDocumentRequest, context: Context
    ) -> pb.ReplaceDocumentResponse:
        """Give a document other content and have it indexed."""
        upload = _upload(request, request.document_id)
        added = await self._library.replace(upload, request.document_id)
        document, embedded = await self._settled(upload, added, wait=not request.accept_only)
        reused = document.chunk_count - embedded
        return pb.ReplaceDocumentResponse(
            document=document,
            chunks_embedded=embedded,
            chunks_reused=reused,
            version_token=version_token(added.revision),
        )

    async def UploadDocument(
        self, request_iterator: AsyncIterator[pb.UploadDocumentRequest], context: Context
    ) -> AsyncIterator[pb.UploadDocumentResponse]:
        """Store a document that comes in parts, and tell how far its indexing is."""
        owner = _caller()
        async with self._uploads.receiving(owner, request_iterator) as (header, upload):
            if header.document_id:
                added = await self._library.replace(upload, header.document_id)
            else:
                added = await self._library.accept(upload)
        token = version_token(added.revision)
        yield pb.UploadDocumentResponse(document=added.document, version_token=token)
        async for document in self._library.changes(owner, added.document.document_id):
            if document.state == pb.DOCUMENT_STATE_FAILED:
                raise BadDocument("content", document.failure)
            yield pb.UploadDocumentResponse(document=document, version_token=token)

    async def _settled(
        self, upload: Upload, added: Added, *, wait: bool
    ) -> tuple[pb.Document, int]:
        """Return the document, once it is settled if it is to be waited for, and what was embedded.

        Raises BadDocument if it cannot be indexed.
        """
        document = added.document
        if wait:
            document = await self._library.settled(upload.operation.owner, document.document_id)
            if document.state == pb.DOCUMENT_STATE_FAILED:
                raise BadDocument("content", document.failure)
        return document, document.chunks_embedded if added.indexes else 0

    async def WatchDocument(
        self, request: pb.WatchDocumentRequest, context: Context
    ) -> AsyncIterator[pb.WatchDocumentResponse]:
        """Tell how far the indexing of a document is."""
        async for document in self._library.changes(_caller(), request.document_id):
            yield pb.WatchDocumentResponse(document=document)

    async def GetDocument(
        self, request: pb.GetDocumentRequest, context: Context
    ) -> pb.GetDocumentResponse:
        """Return one of the caller's documents."""
        document, usage = await self._registry.usage(_caller(), request.document_id)
        return pb.GetDocumentResponse(document=document, usage=usage)

    async def ListDocuments(
        self, request: pb.ListDocumentsRequest, context: Context
    ) -> pb.ListDocumentsResponse:
        """Return a page of the caller's documents, newest first."""
        size = page_size(request.page_size)
        after = parse_page_token(request.page_token)
        # One more than asked for tells whether there is another page.
        shared = _shared(request)
        found = await self._registry.page(_caller(), shared, after=after, limit=size + 1)
        page = found[:size]
        more = page_token(place_of(page[-1])) if len(found) > size else ""
        return pb.ListDocumentsResponse(documents=page, next_page_token=more)

    async def DeleteDocument(
        self, request: pb.DeleteDocumentRequest, context: Context
    ) -> pb.DeleteDocumentResponse:
        """Give up the caller's reference."""
        revision = await self._library.remove(_operation(request), request.document_id)
        return pb.DeleteDocumentResponse(version_token=version_token(revision))

    async def CreateDocumentSet(
        self, request: pb.CreateDocumentSetRequest, context: Context
    ) -> pb.CreateDocumentSetResponse:
        """Refer to documents as a set."""
        _require_some("document_ids", request.document_ids)
        set_id = document_set_id(request.document_ids)
        shared = Shared(kind=SharedKind.SET, name=set_id)
        revision = await self._library.share(_operation(request), shared, request.document_ids)
        return pb.CreateDocumentSetResponse(
            document_set_id=set_id, version_token=version_token(revision)
        )

    async def AttachDocuments(
        self, request: pb.AttachDocumentsRequest, context: Context
    ) -> pb.AttachDocumentsResponse:
        """Put documents into a collection."""
        _require_some("document_ids", request.document_ids)
        shared = Shared(kind=SharedKind.COLLECTION, name=request.collection)
        revision = await self._library.share(_operation(request), shared, request.document_ids)
        return pb.AttachDocumentsResponse(version_token=version_token(revision))

    async def DetachDocuments(
        self, request: pb.DetachDocumentsRequest, context: Context
    ) -> pb.DetachDocumentsResponse:
        """Take documents out of a collection, or give up a set."""
        shared = _shared(request)
        if shared is None:
            raise InvalidArgument("collection", "is missing: name a collection or a set")
        if shared.kind is SharedKind.COLLECTION:
            _require_some("document_ids", request.document_ids)
        elif request.document_ids:
            raise InvalidArgument("document_ids", "cannot leave a set: it goes as a whole")
        operation = _operation(request)
        revision = await self._library.unshare(operation, shared, request.document_ids)
        return pb.DetachDocumentsResponse(version_token=version_token(revision))

    async def SearchDocuments(
        self, request: pb.SearchDocumentsRequest, context: Context
    ) -> pb.SearchDocumentsResponse:
        """Return the passages nearest to the query, from the caller's documents only."""
        answer = await self._library.search(
            _caller(),
            Wanted(
                query=_query(request.query),
                document_ids=request.document_ids,
                limit=_within(request, "limit", MOST_PASSAGES) or DEFAULT_PASSAGES,
                fetch=_within(request, "fetch", MOST_FETCHED) or DEFAULT_FETCHED,
                minimum_score=_between(request, "minimum_score", -1, 1, unset=-1),
                mmr_lambda=_between(request, "mmr_lambda", 0, 1, unset=1),
                filter=request.filter,
            ),
            SearchPlace(
                shared=_all_shared(request), revision=parse_version_token(request.version_token)
            ),
        )
        return pb.SearchDocumentsResponse(
            passages=[_passage(one) for one in answer.found], stale=answer.stale
        )


def _caller() -> Owner:
    identity = current_identity()
    return Owner(tenant=identity.tenant, user=identity.user)


def _upload(request: pb.AddDocumentRequest | pb.ReplaceDocumentRequest, name: str) -> Upload:
    return Upload(
        operation=_operation(request),
        name=name,
        format=request.format,
        content=request.content,
    )


def _operation(request: Changing) -> Operation:
    """Name what is done, so that it is done once."""
    body = request.SerializeToString(deterministic=True)
    return Operation(
        owner=_caller(),
        request_id=request.request_id,
        request_hash=sha256(request.DESCRIPTOR.name.encode() + b"\0" + body).digest(),
    )


def _shared(request: pb.ListDocumentsRequest | pb.DetachDocumentsRequest) -> Shared | None:
    if request.collection and request.document_set_id:
        raise InvalidArgument("document_set_id", "is set beside a collection: choose one")
    if request.collection:
        return Shared(kind=SharedKind.COLLECTION, name=request.collection)
    if request.document_set_id:
        return Shared(kind=SharedKind.SET, name=request.document_set_id)
    return None


def _all_shared(request: pb.SearchDocumentsRequest) -> list[Shared]:
    sets = [Shared(kind=SharedKind.SET, name=one) for one in request.document_set_ids]
    collections = [Shared(kind=SharedKind.COLLECTION, name=one) for one in request.collections]
    return sets + collections


def _require_some(field: str, values: Sequence[str]) -> None:
    if not values:
        raise InvalidArgument(field, "is empty: name at least one")


def _query(query: str) -> str:
    if not query.strip():
        raise InvalidArgument("query", "is empty: say what to look for")
    return query


def _within(request: pb.SearchDocumentsRequest, field: str, most: int) -> int:
    value: int = getattr(request, field)
    if not 0 <= value <= most:
        raise InvalidArgument(field, f"is {value}: choose 0 to {most}")
    return value


def _between(
    request: pb.SearchDocumentsRequest, field: str, low: float, high: float, *, unset: float
) -> float:
    value: float = getattr(request, field) if request.HasField(field) else unset  # type: ignore[arg-type]
    if not low <= value <= high:
        raise InvalidArgument(field, f"is {value}: choose {low} to {high}")
    return value


def _passage(found: Found) -> pb.Passage:
    return pb.Passage(
        document_id=found.hit.document_id,
        document_name=found.document_name,
        chunk_id=found.hit.chunk.id,
        position=found.hit.position,
        text=found.hit.chunk.text,
        score=found.hit.score,
    )
