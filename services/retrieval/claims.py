"""The work on documents, as the archive hands it out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from uuid import uuid4

import grpc
from google.protobuf.duration_pb2 import Duration

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceStub
from maieutic.v1.document_service_pb2 import Document, DocumentState, IngestProgress
from services.runtime.errors import from_rpc

CONTENT_SECONDS = 30.0
"""For a call that brings a whole file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A document whose work this worker has for the time of a lease."""

    claim_id: str
    tenant: str
    document: Document
    content: bytes
    """As it is stored; empty if it is to be removed."""
    removes: bool
    index_versions: Sequence[str]
    """Under which it is to be indexed, or from which it is to be removed."""

    @property
    def document_id(self) -> str:
        """The document's id."""
        return self.document.document_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What it took to index a document under an index version."""

    index_version: str
    chunk_count: int
    chunks_embedded: int
    chunks_hash: str


class Claims:
    """The archive's calls about work; raises what the archive raises, as domain errors.

    Each may be made again: the claim tells what was done.
    """

    def __init__(self, channel: grpc.aio.Channel, *, lease: float, most_attempts: int) -> None:
        """Claim for *lease* seconds; give up what was claimed *most_attempts* times in vain."""
        self._archive = ArchiveServiceStub(channel)
        self._lease = _duration(lease)
        self._most_attempts = most_attempts

    async def claim(self, tenant: str, document_id: str) -> Task | None:
        """Return the document's work; None if there is none, or it is somebody else's."""
        claim_id = uuid4().hex
        request = pb.ClaimDocumentRequest(
            tenant=tenant,
            document_id=document_id,
            claim_id=claim_id,
            lease=self._lease,
            most_attempts=self._most_attempts,
        )
        with archive_errors():
            answer = await self._archive.ClaimDocument(request, timeout=CONTENT_SECONDS)
        if answer.work not in {pb.DOCUMENT_WORK_INDEX, pb.DOCUMENT_WORK_REMOVE}:
            return None
        return Task(
            claim_id=claim_id,
            tenant=tenant,
            document=answer.document,
            content=answer.content,
            removes=answer.work == pb.DOCUMENT_WORK_REMOVE,
            index_versions=answer.index_versions,
        )

    async def renew(self, task: Task, progress: IngestProgress | None = None) -> bool:
        """Keep the work for another lease, and tell how far it is; False if it is lost."""
        request = pb.RenewDocumentClaimRequest(
            tenant=task.tenant,
            document_id=task.document_id,
            claim_id=task.claim_id,
            lease=self._lease,
            progress=progress,
        )
        with archive_errors():
            return (await self._archive.RenewDocumentClaim(request)).held

    async def release(
        self, task: Task, *, pause: float, uncounted: bool = False, problem: str = ""
    ) -> None:
        """Leave the work to anybody, *pause* seconds from now."""
        request = pb.ReleaseDocumentClaimRequest(
            tenant=task.tenant,
            document_id=task.document_id,
            claim_id=task.claim_id,
            pause=_duration(pause),
            uncounted=uncounted,
            problem=problem,
        )
        with archive_errors():
            await self._archive.ReleaseDocumentClaim(request)

    async def finish(self, task: Task, indexed: Sequence[Indexed]) -> bool:
        """Say under which versions it is indexed; returns whether nothing is left to do."""
        indexes = [pb.IndexedUnder(**asdict(one)) for one in indexed]
        return await self._finished(task, pb.FinishDocumentRequest(indexes=indexes))

    async def fail(self, task: Task, reason: str) -> bool:
        """Say why the version cannot be indexed; returns whether nothing is left to do."""
        return await self._finished(task, pb.FinishDocumentRequest(failure=reason))

    async def drop(self, task: Task) -> bool:
        """Say that the index has nothing of it; returns whether nothing is left to do."""
        request = pb.DropDocumentRequest(
            tenant=task.tenant, document_id=task.document_id, claim_id=task.claim_id
        )
        with archive_errors():
            return (await self._archive.DropDocument(request)).dropped

    async def due(self, limit: int) -> list[tuple[str, str]]:
        """Return tenant and id of documents whose work nobody does."""
        request = pb.ListDueDocumentsRequest(lease=self._lease, limit=limit)
        with archive_errors():
            answer = await self._archive.ListDueDocuments(request)
        return [(one.tenant, one.document_id) for one in answer.documents]

    async def _finished(self, task: Task, request: pb.FinishDocumentRequest) -> bool:
        request.tenant, request.document_id = task.tenant, task.document_id
        request.claim_id, request.version = task.claim_id, task.document.version
        with archive_errors():
            answer = await self._archive.FinishDocument(request)
        return answer.held and answer.document.state != DocumentState.DOCUMENT_STATE_PENDING


@contextmanager
def archive_errors() -> Iterator[None]:
    """Raise what the archive answers as the domain error that it is."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error


def _duration(seconds: float) -> Duration:
    span = Duration()
    span.FromNanoseconds(round(seconds * 1e9))
    return span
