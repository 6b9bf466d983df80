"""Documents are looked after: their use is noted, the unused go, and all are counted."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceStub
from maieutic.v1.document_admin_service_pb2 import DocumentTotals
from services.retrieval.claims import archive_errors
from services.retrieval.jobs import Jobs
from services.retrieval.model import Owner, Shared
from services.retrieval.registry import SCOPES
from services.retrieval.settings import ExpiryOptions
from services.runtime import names
from services.runtime.errors import ServiceError
from services.runtime.repeating import again_and_again
from services.runtime.telemetry import current

NOTED_SECONDS = 3600.0
"""Use is noted once in this time; what expires does so after days."""
MOST_NOTED = 100_000
EXPIRED_AT_A_TIME = 500
ACTIVE_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanedUp:
    """What a cleanup did, or would do."""

    expired: Sequence[pb.ExpiredReference]
    removed: int
    """Documents that went with their last reference."""


class Uses:
    """Notes in the archive who has used what, once in a while."""

    def __init__(
        self, channel: grpc.aio.Channel, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._archive = ArchiveServiceStub(channel)
        self._clock = clock
        self._noted: dict[tuple[Owner, Shared | None, str], float] = {}

    async def note(
        self, owner: Owner, shared: Sequence[Shared], document_ids: Sequence[str]
    ) -> None:
        """Note a search of these; that the archive is away costs no search."""
        with suppress(ServiceError):
            for one in shared:
                await self._touch(owner, one, ())
            if document_ids or not shared:
                await self._touch(owner, None, document_ids)

    async def _touch(
        self, owner: Owner, shared: Shared | None, document_ids: Sequence[str]
    ) -> None:
        now = self._clock()
        keys = [(owner, shared, document_id) for document_id in document_ids or ("",)]
        if all(now - self._noted.get(key, -NOTED_SECONDS) < NOTED_SECONDS for key in keys):
            return
        request = pb.TouchDocumentsRequest(
            tenant=owner.tenant, user_id=owner.user, document_ids=document_ids
        )
        if shared is not None:
            request.scope, request.owner = SCOPES[shared.kind], shared.name
        with archive_errors():
            await self._archive.TouchDocuments(request)
        if len(self._noted) > MOST_NOTED:
            self._noted.clear()
        self._noted.update(dict.fromkeys(keys, now))


class Upkeep:
    """Cleans up and counts, again and again and when it is asked to."""

    def __init__(self, channel: grpc.aio.Channel, jobs: Jobs, options: ExpiryOptions) -> None:
        self._archive = ArchiveServiceStub(channel)
        self._jobs = jobs
        self._options = options

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Clean up and count during the block."""
        works: list[tuple[float, Callable[[], Awaitable[object]]]] = [
            (self._options.figures_interval, self._count)
        ]
        if self._options.interval:
            works.append((self._options.interval, self.clean_up))
        what = "documents are looked after"
        loops = [
            asyncio.create_task(again_and_again(work, seconds=seconds, what=what))
            for seconds, work in works
        ]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def clean_up(self, *, dry_run: bool = False) -> CleanedUp:
        """Drop references that were not used for long; raises what the archive raises."""
        expired: list[pb.ExpiredReference] = []
        removed = 0
        while True:
            answer = await self._expire(dry_run=dry_run)
            expired += answer.references
            removed += len(answer.released)
            for one in answer.released:
                await self._jobs.publish(one.tenant, one.document_id)
            # What is only looked at is there the next time, too.
            if dry_run or len(answer.references) < EXPIRED_AT_A_TIME:
                return CleanedUp(expired=expired, removed=removed)

    async def totals(self) -> DocumentTotals:
        """Count all documents; raises what the archive raises."""
        request = pb.GetDocumentTotalsRequest(active=Duration(seconds=ACTIVE_SECONDS))
        with archive_errors():
            return (await self._archive.GetDocumentTotals(request)).totals

    async def _expire(self, *, dry_run: bool) -> pb.ExpireDocumentsResponse:
        options = self._options
        request = pb.ExpireDocumentsRequest(
            user=_age(options.user),
            document_set=_age(options.document_set),
            collection=_age(options.collection),
            limit=EXPIRED_AT_A_TIME,
            dry_run=dry_run,
        )
        with archive_errors():
            return await self._archive.ExpireDocuments(request)

    async def _count(self) -> None:
        totals, gauge = await self.totals(), current().gauge
        documents = max(1, totals.documents)
        gauge(names.DOCUMENTS_STORED).set(totals.documents)
        gauge(names.DOCUMENTS_ACTIVE).set(totals.active)
        gauge(names.DOCUMENTS_FAILED).set(totals.failed)
        gauge(names.DOCUMENT_BYTES).set(totals.bytes)
        gauge(names.DOCUMENT_SIZE).set(totals.bytes / documents)
        gauge(names.CHUNKS_STORED).set(totals.chunks)
        gauge(names.BYTES_SAVED).set(totals.bytes_saved)
        gauge(names.EMBEDDINGS_SAVED).set(totals.embeddings_saved)


def _age(seconds: float) -> Duration | None:
    return Duration(seconds=round(seconds)) if seconds else None
