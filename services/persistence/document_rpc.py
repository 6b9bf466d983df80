"""The document registry: gRPC in, registry call, gRPC out."""

from collections.abc import Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import grpc

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceServicer
from maieutic.v1.document_service_pb2 import DocumentFormat
from services.persistence.document_ports import (
    Claim,
    DocumentRegistry,
    DocumentUpkeep,
    DocumentWork,
    ExpiredReference,
    Expiry,
    Indexed,
    IndexedUnder,
    Operation,
    Owner,
    Registration,
    Scope,
    Work,
)
from services.persistence.requests import for_services, limited, place, seconds
from services.runtime.errors import InvalidArgument

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

ClaimRequest: TypeAlias = (
    pb.ClaimDocumentRequest
    | pb.RenewDocumentClaimRequest
    | pb.ReleaseDocumentClaimRequest
    | pb.FinishDocumentRequest
    | pb.DropDocumentRequest
)
OperationRequest: TypeAlias = (
    pb.RegisterDocumentRequest
    | pb.ReleaseDocumentRequest
    | pb.AttachDocumentsRequest
    | pb.DetachDocumentsRequest
)
OwnerRequest: TypeAlias = (
    pb.AttachDocumentsRequest
    | pb.DetachDocumentsRequest
    | pb.ListRegisteredDocumentsRequest
    | pb.TouchDocumentsRequest
)
SCOPES = MappingProxyType(
    {
        pb.DOCUMENT_SCOPE_UNSPECIFIED: Scope.USER,
        pb.DOCUMENT_SCOPE_SET: Scope.SET,
        pb.DOCUMENT_SCOPE_COLLECTION: Scope.COLLECTION,
    }
)
WORK = MappingProxyType(
    {
        Work.NONE: pb.DOCUMENT_WORK_UNSPECIFIED,
        Work.HELD: pb.DOCUMENT_WORK_HELD,
        Work.INDEX: pb.DOCUMENT_WORK_INDEX,
        Work.REMOVE: pb.DOCUMENT_WORK_REMOVE,
    }
)


SCOPE_VALUES = MappingProxyType({scope: value for value, scope in SCOPES.items()})


class Documents(DocumentRegistry, DocumentWork, DocumentUpkeep, Protocol):
    """The registry with its work and its upkeep."""


class DocumentCalls(ArchiveServiceServicer):
    """The part of the archive that keeps documents."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def RegisterDocument(
        self, request: pb.RegisterDocumentRequest, context: Context
    ) -> pb.RegisterDocumentResponse:
        for_services()
        found = await self._documents.register_document(_registration(request))
        return pb.RegisterDocumentResponse(
            document=found.document, indexes=found.indexes, revision=found.revision
        )

    async def ReplaceRegisteredDocument(
        self, request: pb.ReplaceRegisteredDocumentRequest, context: Context
    ) -> pb.ReplaceRegisteredDocumentResponse:
        for_services()
        found = await self._documents.replace_document(_registration(request.registration))
        return pb.ReplaceRegisteredDocumentResponse(
            document=found.document, indexes=found.indexes, revision=found.revision
        )

    async def GetRegisteredDocument(
        self, request: pb.GetRegisteredDocumentRequest, context: Context
    ) -> pb.GetRegisteredDocumentResponse:
        for_services()
        document = await self._documents.get_document(
            request.tenant, request.user_id, request.document_id
        )
        usage = None
        if request.with_usage:
            usage = await self._documents.document_usage(request.tenant, request.document_id)
        return pb.GetRegisteredDocumentResponse(document=document, usage=usage)

    async def ListRegisteredDocuments(
        self, request: pb.ListRegisteredDocumentsRequest, context: Context
    ) -> pb.ListRegisteredDocumentsResponse:
        for_services()
        documents = await self._documents.list_documents(
            request.tenant,
            _owner(request),
            before=place(request, request.before_document_id),
            limit=limited("limit", request.limit),
        )
        return pb.ListRegisteredDocumentsResponse(documents=documents)

    async def ReleaseDocument(
        self, request: pb.ReleaseDocumentRequest, context: Context
    ) -> pb.ReleaseDocumentResponse:
        for_services()
        owner = Owner(scope=Scope.USER, name=request.user_id)
        released = await self._documents.detach_documents(
            _operation(request), owner, [request.document_id]
        )
        return pb.ReleaseDocumentResponse(
            last=bool(released.document_ids), revision=released.revision
        )

    async def AttachDocuments(
        self, request: pb.AttachDocumentsRequest, context: Context
    ) -> pb.AttachDocumentsResponse:
        for_services()
        revision = await self._documents.attach_documents(
            _operation(request), _owner(request), request.document_ids
        )
        return pb.AttachDocumentsResponse(revision=revision)

    async def DetachDocuments(
        self, request: pb.DetachDocumentsRequest, context: Context
    ) -> pb.DetachDocumentsResponse:
        for_services()
        released = await self._documents.detach_documents(
            _operation(request), _owner(request), request.document_ids
        )
        return pb.DetachDocumentsResponse(
            released_document_ids=released.document_ids, revision=released.revision
        )

    async def ClaimDocument(
        self, request: pb.ClaimDocumentRequest, context: Context
    ) -> pb.ClaimDocumentResponse:
        for_services()
        claimed = await self._documents.claim_document(
            _claim(request),
            lease=seconds("lease", request.lease),
            most_attempts=limited("most_attempts", request.most_attempts),
        )
        return pb.ClaimDocumentResponse(
            work=WORK[claimed.work],
            document=claimed.document,
            content=claimed.content,
            index_versions=claimed.index_versions,
        )

    async def RenewDocumentClaim(
        self, request: pb.RenewDocumentClaimRequest, context: Context
    ) -> pb.RenewDocumentClaimResponse:
        for_services()
        held = await self._documents.renew_claim(
            _claim(request),
            lease=seconds("lease", request.lease),
            progress=request.progress if request.HasField("progress") else None,
        )
        return pb.RenewDocumentClaimResponse(held=held)

    async def ReleaseDocumentClaim(
        self, request: pb.ReleaseDocumentClaimRequest, context: Context
    ) -> pb.ReleaseDocumentClaimResponse:
        for_services()
        await self._documents.release_claim(
            _claim(request),
            pause=seconds("pause", request.pause),
            uncounted=request.uncounted,
            problem=request.problem,
        )
        return pb.ReleaseDocumentClaimResponse()

    async def FinishDocument(
        self, request: pb.FinishDocumentRequest, context: Context
    ) -> pb.FinishDocumentResponse:
        for_services()
        indexed = Indexed(
            version=request.version,
            index_version=request.index_version,
            chunk_count=request.chunk_count,
            chunks_embedded=request.chunks_embedded,
            failure=request.failure,
            chunks_hash=request.chunks_hash,
            indexes=[_indexed_under(one) for one in request.indexes],
        )
        document = await self._documents.finish_document(_claim(request), indexed)
        return pb.FinishDocumentResponse(document=document, held=document is not None)

    async def DropDocument(
        self, request: pb.DropDocumentRequest, context: Context
    ) -> pb.DropDocumentResponse:
        for_services()
        dropped = await self._documents.drop_document(_claim(request))
        return pb.DropDocumentResponse(dropped=dropped)

    async def TouchDocuments(
        self, request: pb.TouchDocumentsRequest, context: Context
    ) -> pb.TouchDocumentsResponse:
        for_services()
        await self._documents.touch_documents(request.tenant, _owner(request), request.document_ids)
        return pb.TouchDocumentsResponse()

    async def ExpireDocuments(
        self, request: pb.ExpireDocumentsRequest, context: Context
    ) -> pb.ExpireDocumentsResponse:
        for_services()
        expiry = Expiry(
            user=_age(request, "user"),
            document_set=_age(request, "document_set"),
            collection=_age(request, "collection"),
        )
        limit = limited("limit", request.limit)
        found = await self._documents.expired_references(expiry, limit)
        released = () if request.dry_run else await self._documents.drop_expired(found)
        return pb.ExpireDocumentsResponse(
            references=map(_expired, found),
            released=[pb.DocumentKey(tenant=tenant, document_id=one) for tenant, one in released],
        )

    async def GetDocumentTotals(
        self, request: pb.GetDocumentTotalsRequest, context: Context
    ) -> pb.GetDocumentTotalsResponse:
        for_services()
        totals = await self._documents.document_totals(active=seconds("active", request.active))
        return pb.GetDocumentTotalsResponse(totals=totals)

    async def ReindexDocument(
        self, request: pb.ReindexDocumentRequest, context: Context
    ) -> pb.ReindexDocumentResponse:
        for_services()
        await self._documents.reindex_document(request.tenant, request.document_id)
        return pb.ReindexDocumentResponse()

    async def ListDocumentTenants(
        self, request: pb.ListDocumentTenantsRequest, context: Context
    ) -> pb.ListDocumentTenantsResponse:
        for_services()
        tenants = await self._documents.document_tenants(
            after=request.after_tenant, limit=limited("limit", request.limit)
        )
        return pb.ListDocumentTenantsResponse(tenants=tenants)

    async def ListIndexedDocuments(
        self, request: pb.ListIndexedDocumentsRequest, context: Context
    ) -> pb.ListIndexedDocumentsResponse:
        for_services()
        found = await self._documents.indexed_documents(
            request.tenant,
            after=request.after_document_id,
            limit=limited("limit", request.limit),
        )
        documents = [pb.IndexedDocument(**asdict(one)) for one in found]
        return pb.ListIndexedDocumentsResponse(documents=documents)

    async def ListDueDocuments(
        self, request: pb.ListDueDocumentsRequest, context: Context
    ) -> pb.ListDueDocumentsResponse:
        for_services()
        due = await self._documents.due_documents(
            lease=seconds("lease", request.lease), limit=limited("limit", request.limit)
        )
        keys = [pb.DocumentKey(tenant=tenant, document_id=one) for tenant, one in due]
        return pb.ListDueDocumentsResponse(documents=keys)


def _registration(request: pb.RegisterDocumentRequest) -> Registration:
    _check_document(request)
    return Registration(
        operation=_operation(request),
        document=request.document,
        content=request.content,
        index_version=request.index_version,
        most_documents=request.most_documents,
        most_bytes=request.most_bytes,
    )


def _owner(request: OwnerRequest) -> Owner:
    scope = SCOPES.get(request.scope)
    if scope is None:
        raise InvalidArgument("scope", f"is no known scope: {request.scope}")
    name = request.user_id if scope is Scope.USER else request.owner
    return Owner(scope=scope, name=name)


def _age(request: pb.ExpireDocumentsRequest, field: str) -> float | None:
    named: Any = field
    return seconds(field, getattr(request, field)) if request.HasField(named) else None


def _expired(reference: ExpiredReference) -> pb.ExpiredReference:
    expired = pb.ExpiredReference(
        tenant=reference.tenant,
        scope=SCOPE_VALUES[reference.owner.scope],
        owner=reference.owner.name,
        document_id=reference.document_id,
    )
    expired.last_used_time.FromDatetime(reference.last_used_time)
    return expired


def _operation(request: OperationRequest) -> Operation:
    return Operation(
        tenant=request.tenant,
        user_id=request.user_id,
        request_id=request.request_id,
        request_hash=request.request_hash,
    )


def _indexed_under(indexed: pb.IndexedUnder) -> IndexedUnder:
    return IndexedUnder(
        index_version=indexed.index_version,
        chunk_count=indexed.chunk_count,
        chunks_embedded=indexed.chunks_embedded,
        chunks_hash=indexed.chunks_hash,
    )


def _claim(request: ClaimRequest) -> Claim:
    if not request.claim_id:
        raise InvalidArgument("claim_id", "must not be empty")
    return Claim(tenant=request.tenant, document_id=request.document_id, id=request.claim_id)


def _check_document(request: pb.RegisterDocumentRequest) -> None:
    document = request.document
    required: Sequence[tuple[str, str]] = (
        ("request_id", request.request_id),
        ("document.document_id", document.document_id),
        ("document.content_hash", document.content_hash),
    )
    missing = {field: "must not be empty" for field, value in required if not value}
    if document.format not in DocumentFormat.values():
        missing["document.format"] = f"is no known format: {document.format}"
    if missing:
        raise InvalidArgument.fields(missing)
