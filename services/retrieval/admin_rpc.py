"""For those who run the backend: gRPC in, call, gRPC out."""

from types import MappingProxyType
from typing import Any, TypeAlias

import grpc

from maieutic.archive.v1 import archive_service_pb2 as archive_pb
from maieutic.v1 import document_admin_service_pb2 as pb
from maieutic.v1.document_admin_service_pb2_grpc import DocumentAdminServiceServicer
from services.retrieval.checking import Checker, Fault, FaultKind
from services.retrieval.upkeep import Upkeep

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MOST_SHOWN = 100
KINDS = MappingProxyType(
    {
        FaultKind.ORPHAN: pb.DOCUMENT_FAULT_KIND_ORPHAN,
        FaultKind.MISSING: pb.DOCUMENT_FAULT_KIND_MISSING,
    }
)


OWNER_FIELDS = MappingProxyType(
    {
        archive_pb.DOCUMENT_SCOPE_UNSPECIFIED: "user_id",
        archive_pb.DOCUMENT_SCOPE_SET: "document_set_id",
        archive_pb.DOCUMENT_SCOPE_COLLECTION: "collection",
    }
)


class DocumentAdminServicer(DocumentAdminServiceServicer):
    """The documents of all tenants; the gateway lets only admins in."""

    def __init__(self, checker: Checker, upkeep: Upkeep) -> None:
        self._checker = checker
        self._upkeep = upkeep

    async def CleanUpDocuments(
        self, request: pb.CleanUpDocumentsRequest, context: Context
    ) -> pb.CleanUpDocumentsResponse:
        """Give up documents that were not used for long."""
        done = await self._upkeep.clean_up(dry_run=request.dry_run)
        return pb.CleanUpDocumentsResponse(
            expired=map(_expired, done.expired[:MOST_SHOWN]),
            reference_count=len(done.expired),
            removed_count=done.removed,
        )

    async def GetDocumentTotals(
        self, request: pb.GetDocumentTotalsRequest, context: Context
    ) -> pb.GetDocumentTotalsResponse:
        """Count the documents of all tenants."""
        return pb.GetDocumentTotalsResponse(totals=await self._upkeep.totals())

    async def CheckDocuments(
        self, request: pb.CheckDocumentsRequest, context: Context
    ) -> pb.CheckDocumentsResponse:
        """Compare the registry with the index."""
        answer = pb.CheckDocumentsResponse()
        async for _, found in self._checker.all():
            answer.tenants += 1
            answer.documents += found.documents
            answer.documents_changing += found.changing
            answer.chunks += found.chunks
            answer.fault_count += len(found.faults)
            answer.faults.extend(map(_fault, found.faults))
            if request.repair:
                for fault in found.faults:
                    await self._checker.repair(fault)
        del answer.faults[MOST_SHOWN:]
        return answer


def _expired(reference: archive_pb.ExpiredReference) -> pb.ExpiredDocument:
    expired = pb.ExpiredDocument(
        tenant=reference.tenant,
        document_id=reference.document_id,
        last_used_time=reference.last_used_time,
    )
    setattr(expired, OWNER_FIELDS[reference.scope], reference.owner)
    return expired


def _fault(fault: Fault) -> pb.DocumentFault:
    return pb.DocumentFault(
        tenant=fault.tenant,
        document_id=fault.document_id,
        kind=KINDS[fault.kind],
        chunks=fault.chunks,
    )
