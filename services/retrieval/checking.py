"""Comparing the registry with the index that is searched: nothing orphaned, nothing missing."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum

import grpc

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceStub
from services.retrieval.claims import archive_errors
from services.retrieval.jobs import Jobs
from services.retrieval.model import chunks_hash
from services.retrieval.versions import Versions

LISTED_AT_A_TIME = 1000
NO_DOCUMENT = ""


class FaultKind(Enum):
    """How a document differs."""

    ORPHAN = "orphan"
    """The index has chunks that it should not have."""
    MISSING = "missing"
    """The index has nothing of it, or not what it should have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A difference."""

    tenant: str
    document_id: str
    """Empty: chunks that are part of no document."""
    kind: FaultKind
    chunks: int
    """That the index has under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a tenant's comparison found."""

    documents: int
    """That were compared."""
    changing: int
    """That were being changed, and are left out."""
    chunks: int
    """In the index, each counted for each document that has it."""
    faults: tuple[Fault, ...]


class Inventory:
    """What the registry says that the index must hold; raises what the archive raises."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._archive = ArchiveServiceStub(channel)

    async def tenants(self) -> AsyncIterator[str]:
        """Yield every tenant that ever had documents."""
        request = pb.ListDocumentTenantsRequest(limit=LISTED_AT_A_TIME)
        while True:
            with archive_errors():
                found = (await self._archive.ListDocumentTenants(request)).tenants
            for tenant in found:
                yield tenant
            if len(found) < LISTED_AT_A_TIME:
                return
            request.after_tenant = found[-1]

    async def documents(self, tenant: str) -> dict[str, pb.IndexedDocument]:
        """Return the tenant's documents by id."""
        documents: dict[str, pb.IndexedDocument] = {}
        request = pb.ListIndexedDocumentsRequest(tenant=tenant, limit=LISTED_AT_A_TIME)
        while True:
            with archive_errors():
                found = (await self._archive.ListIndexedDocuments(request)).documents
            documents |= {one.document_id: one for one in found}
            if len(found) < LISTED_AT_A_TIME:
                return documents
            request.after_document_id = found[-1].document_id

    async def reindex(self, tenant: str, document_id: str) -> None:
        """Have a document indexed again."""
        request = pb.ReindexDocumentRequest(tenant=tenant, document_id=document_id)
        with archive_errors():
            await self._archive.ReindexDocument(request)


class Checker:
    """Finds differences, and puts them right. Raises what the archive and the index raise."""

    def __init__(self, *, inventory: Inventory, versions: Versions, jobs: Jobs) -> None:
        self._inventory = inventory
        self._versions = versions
        self._jobs = jobs

    async def all(self) -> AsyncIterator[tuple[str, Findings]]:
        """Yield what is found for each tenant."""
        async for tenant in self._inventory.tenants():
            yield tenant, await self.tenant(tenant)

    async def tenant(self, tenant: str) -> Findings:
        """Compare a tenant's documents; the registry is read before the index and after it."""
        before = await self._inventory.documents(tenant)
        async with self._versions.current() as opened:
            held = await opened.index.contents(tenant)
        after = await self._inventory.documents(tenant)
        steady = {
            id_: one for id_, one in after.items() if not one.changing and one == before.get(id_)
        }
        changing = (before.keys() | after.keys()) - steady.keys()
        faults = [
            fault
            for id_ in sorted({*steady, *held} - changing)
            if (fault := _fault(tenant, id_, steady, held))
        ]
        if changing:
            # Chunks are stored for a document before they are part of it.
            faults = [fault for fault in faults if fault.document_id != NO_DOCUMENT]
        return Findings(
            documents=len(steady),
            changing=len(changing),
            chunks=sum(len(chunks) for chunks in held.values()),
            faults=tuple(faults),
        )

    async def repair(self, fault: Fault) -> None:
        """Put it right, by a job where something has to be indexed."""
        if fault.kind is FaultKind.MISSING:
            await self._inventory.reindex(fault.tenant, fault.document_id)
            await self._jobs.publish(fault.tenant, fault.document_id)
        else:
            async with self._versions.current() as opened:
                await opened.index.unlink(fault.tenant, fault.document_id)


def _fault(
    tenant: str,
    document_id: str,
    steady: Mapping[str, pb.IndexedDocument],
    held: Mapping[str, frozenset[str]],
) -> Fault | None:
    chunks, wanted = held.get(document_id, frozenset()), steady.get(document_id)
    if wanted is None or not wanted.indexed_version:
        kind = FaultKind.ORPHAN if chunks else None
    else:
        kind = None if chunks_hash(chunks) == wanted.chunks_hash else FaultKind.MISSING
    if kind is None:
        return None
    return Fault(tenant=tenant, document_id=document_id, kind=kind, chunks=len(chunks))
