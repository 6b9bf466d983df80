"""Bringing the index to what the registry says of a document: indexing it, or removing it.

Every step may be repeated, and is, after a crash: what was embedded is not embedded again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

from maieutic.v1.document_service_pb2 import IngestProgress, IngestStage
from services.retrieval.claims import Claims, Indexed, Task
from services.retrieval.errors import BadDocument, DocumentChanging, VectorsLeft
from services.retrieval.model import Chunk, Content, checked_form, chunks_hash
from services.retrieval.parsing.parser import Parser
from services.retrieval.ports import Vectors
from services.retrieval.settings import IngestOptions
from services.retrieval.versions import Opened, Versions
from services.retrieval.watching import Watchers
from services.runtime.errors import Aborted, DeadlineExceeded, ServiceError, Unavailable
from services.runtime.names import CHUNK_SOURCE, CHUNKS_INDEXED, EMBED_TEXTS, TEXTS
from services.runtime.telemetry import current, span

LOG = logging.getLogger(__name__)

LINK_ATTEMPTS = 5
RELEASE_SECONDS = 2.0
TOLD_SECONDS = 0.25
"""Between two notes of progress in the registry; watchers in this process see each."""
PASSING = (Unavailable, Aborted, DeadlineExceeded)
"""Errors that say nothing about the document."""


class ClaimLost(Exception):
    """The lease has passed, or another worker has the document."""


class Ingester:
    """Does the work on documents, one claim at a time for each."""

    def __init__(
        self,
        *,
        claims: Claims,
        versions: Versions,
        parser: Parser,
        watchers: Watchers,
        options: IngestOptions,
    ) -> None:
        self._claims = claims
        self._versions = versions
        self._parser = parser
        self._watchers = watchers
        self._options = options

    async def settle(self, tenant: str, document_id: str) -> None:
        """Do what there is to do for a document, unless somebody else does it.

        Raises what the archive raises; what goes wrong with the document itself is noted there.
        """
        try:
            await self._versions.current_id()  # the archive hands out work for versions
            while task := await self._claims.claim(tenant, document_id):
                if await self._done(task):
                    return
        finally:
            self._watchers.tell(tenant, document_id)

    async def _done(self, task: Task) -> bool:
        """Work on the task; returns whether nothing is left to do now."""
        try:
            async with self._holding(task):
                return await (self._remove(task) if task.removes else self._index_version(task))
        except asyncio.CancelledError:
            await self._hand_back(task)
            raise
        except ClaimLost:
            LOG.warning("document %s: the claim was lost", task.document_id)
        except BadDocument as error:
            return await self._claims.fail(task, error.message.removeprefix("content: "))
        except PASSING as error:
            LOG.warning("document %s is tried again later: %s", task.document_id, error)
            pause = max(self._options.pause, error.retry_after or 0.0)
            await self._claims.release(task, pause=pause, uncounted=True, problem=error.message)
        # A supervision loop: a document that cannot be indexed must not end its neighbours. It is
        # tried a few times, and then FAILED.
        except Exception as error:
            LOG.exception("document %s: indexing failed", task.document_id)
            problem = error.message if isinstance(error, ServiceError) else type(error).__name__
            await self._claims.release(task, pause=self._options.pause, problem=problem)
        return True

    @asynccontextmanager
    async def _holding(self, task: Task) -> AsyncIterator[None]:
        """Renew the claim during the block; raises ClaimLost in it before anybody else may work."""
        # Less than the lease: what was begun last must have ended when another worker begins.
        patience = self._options.lease * 0.75
        limit = asyncio.timeout(patience)
        try:
            async with limit:
                renewing = asyncio.create_task(self._renew(task, limit, patience))
                try:
                    yield
                finally:
                    renewing.cancel()
                    await asyncio.wait([renewing])
        except TimeoutError as error:
            if limit.expired():
                raise ClaimLost from error
            raise

    async def _renew(self, task: Task, limit: asyncio.Timeout, patience: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._options.lease / 4)
            asked = loop.time()
            with suppress(ServiceError):
                held = await self._claims.renew(task)
                limit.reschedule(asked + patience if held else asked)

    async def _hand_back(self, task: Task) -> None:
        """Let another process go on at once; if it cannot be told, once the lease has passed."""
        releasing = asyncio.create_task(self._claims.release(task, pause=0.0, uncounted=True))
        await asyncio.wait([releasing], timeout=RELEASE_SECONDS)
        releasing.cancel()

    async def _remove(self, task: Task) -> bool:
        for version_id in task.index_versions:
            async with self._versions.using(version_id) as opened:
                await opened.index.unlink(task.tenant, task.document_id)
                if left := await opened.index.count(task.tenant, task.document_id):
                    raise VectorsLeft(task.document_id, left)
        return await self._claims.drop(task)

    async def _index_version(self, task: Task) -> bool:
        progress = _Progress(self._claims, self._watchers, task)
        form, name = checked_form(task.document.format), task.document.name
        content = (await self._parser.parse(task.content, form=form, name=name)).content
        await progress.note(IngestStage.INGEST_STAGE_PARSED)
        indexed: list[Indexed] = []
        for version_id in task.index_versions:
            try:
                indexed.append(await self._index_under(version_id, task, content, progress))
            # A version that cannot take the document must not keep it out of the one before it,
            # which is searched: what it lacks is tried again.
            except Exception as error:
                if not indexed:
                    raise
                LOG.warning(
                    "document %s: not under %s yet: %s", task.document_id, version_id, error
                )
        done = await self._claims.finish(task, indexed)
        for one in indexed:
            _count_chunks(one)
        return done

    async def _index_under(
        self, version_id: str, task: Task, content: Content, progress: "_Progress"
    ) -> Indexed:
        async with self._versions.using(version_id) as opened:
            split = opened.splitter.chunks
            chunks = await asyncio.to_thread(split, content, task.document.format)
            await progress.note(IngestStage.INGEST_STAGE_CHUNKED, total=len(chunks))
            embedded = await self._stored(opened, task, chunks, progress)
        return Indexed(
            index_version=version_id,
            chunk_count=len(chunks),
            chunks_embedded=embedded,
            chunks_hash=chunks_hash(chunk.id for chunk in chunks),
        )

    async def _stored(
        self, opened: Opened, task: Task, chunks: Sequence[Chunk], progress: "_Progress"
    ) -> int:
        """Store what is new and link the document; returns how many chunks were embedded."""
        by_id = {chunk.id: chunk for chunk in chunks}
        embedded: set[str] = set()
        for _ in range(LINK_ATTEMPTS):
            missing = await opened.index.missing(task.tenant, by_id.keys())
            new = [chunk for id_, chunk in by_id.items() if id_ in missing]
            await self._embed(opened, task, new, progress)
            embedded |= missing
            await progress.note(IngestStage.INGEST_STAGE_EMBEDDED, done=len(chunks))
            # A chunk may go with another document's removal between the two calls.
            ids = [chunk.id for chunk in chunks]
            if await opened.index.link(task.tenant, task.document_id, ids):
                return len(embedded)
        raise DocumentChanging(
            f"chunks of document {task.document_id!r} keep being removed: try again",
            retry_after=1.0,
        )

    async def _embed(
        self, opened: Opened, task: Task, chunks: Sequence[Chunk], progress: "_Progress"
    ) -> None:
        done = progress.total - len(chunks)
        for some in batches(chunks, self._options.batch_bytes):
            vectors = await _vectors(opened, [chunk.text for chunk in some])
            await opened.index.upsert(task.tenant, task.document_id, some, vectors)
            done += len(some)
            await progress.note(IngestStage.INGEST_STAGE_CHUNKED, done=done)


class _Progress:
    """How far a task is; watchers here see each step, the registry one now and then."""

    def __init__(self, claims: Claims, watchers: Watchers, task: Task) -> None:
        self._claims = claims
        self._watchers = watchers
        self._task = task
        self._told = asyncio.get_running_loop().time()
        self._stage = IngestStage.INGEST_STAGE_ACCEPTED
        self.total = 0
        """Chunks of the document."""

    async def note(self, stage: IngestStage.ValueType, *, done: int = 0, total: int = 0) -> None:
        self.total = total or self.total
        if stage < self._stage:
            return  # of another index version: it has been so far already
        self._stage = stage
        progress = IngestProgress(stage=stage, chunks_done=done, chunks_total=self.total)
        self._watchers.tell(self._task.tenant, self._task.document_id, progress)
        now = asyncio.get_running_loop().time()
        if now - self._told > TOLD_SECONDS:
            self._told = now
            # Nobody misses a note: the next one says more.
            with suppress(ServiceError):
                await self._claims.renew(self._task, progress)


async def _vectors(opened: Opened, texts: Sequence[str]) -> Vectors:
    with span(EMBED_TEXTS, attributes={TEXTS: len(texts)}):
        return await opened.embedder.embed(texts)


def batches(chunks: Sequence[Chunk], most_bytes: int) -> Iterator[list[Chunk]]:
    """Cut the chunks into batches of at most so many bytes of text, or of one chunk."""
    batch: list[Chunk] = []
    size = 0
    for chunk in chunks:
        weight = len(chunk.text.encode())
        if batch and size + weight > most_bytes:
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += weight
    if batch:
        yield batch


def _count_chunks(indexed: Indexed) -> None:
    counter = current().counter(CHUNKS_INDEXED)
    counter.add(indexed.chunks_embedded, {CHUNK_SOURCE: "embedded"})
    counter.add(indexed.chunk_count - indexed.chunks_embedded, {CHUNK_SOURCE: "reused"})
