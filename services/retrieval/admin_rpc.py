"""For those who run the backend: gRPC in, call, gRPC out."""

from types import MappingProxyType
from typing import Any, TypeAlias

import grpc

from maieutic.v1 import document_admin_service_pb2 as pb
from maieutic.v1.document_admin_service_pb2_grpc import DocumentAdminServiceServicer
from services.retrieval.checking import Checker, Fault, FaultKind

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MOST_FAULTS = 100
KINDS = MappingProxyType(
    {
        FaultKind.ORPHAN: pb.DOCUMENT_FAULT_KIND_ORPHAN,
        FaultKind.MISSING: pb.DOCUMENT_FAULT_KIND_MISSING,
    }
)


class DocumentAdminServicer(DocumentAdminServiceServicer):
    """The documents of all tenants; the gateway lets only admins in."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker

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
        del answer.faults[MOST_FAULTS:]
        return answer


def _fault(fault: Fault) -> pb.DocumentFault:
    return pb.DocumentFault(
        tenant=fault.tenant,
        document_id=fault.document_id,
        kind=KINDS[fault.kind],
        chunks=fault.chunks,
    )
