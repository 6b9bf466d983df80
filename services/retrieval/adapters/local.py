"""Vectors on this machine: one thread owns the files, so nothing is shared between threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from services.retrieval.adapters.local_store import LocalStore, sqlite_errors
from services.retrieval.model import Chunk
from services.retrieval.ports import Embedded, Hit, Vectors

P = ParamSpec("P")
T = TypeVar("T")


class LocalVectorIndex:
    """A `VectorIndex` for one process, with exact search."""

    def __init__(self, store: LocalStore, executor: ThreadPoolExecutor) -> None:
        self._store = store
        self._executor = executor

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, *, embedder: str, dimension: int) -> AsyncIterator[Self]:
        """Open the index of that embedder in the folder, made if it is not there.

        Raises IndexUnavailable if another process has it open, and IndexDamaged.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vectors")
        opened = asyncio.get_running_loop().run_in_executor
        try:
            store = await opened(
                executor, LocalStore.open, folder / f"{embedder}.sqlite3", dimension
            )
            try:
                yield cls(store, executor)
            finally:
                # Behind whatever is still queued, so that no call finds the database closed.
                await asyncio.shield(opened(executor, store.close))
        finally:
            executor.shutdown(wait=False)

    async def missing(self, namespace: str, chunk_ids: Collection[str]) -> frozenset[str]:
        """Return those of the ids that are not stored."""
        return await self._run(self._store.missing, namespace, chunk_ids)

    async def upsert(
        self, namespace: str, document_id: str, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Store chunks for a document, with their vectors, [len(chunks), dimension]."""
        await self._run(self._store.upsert, namespace, document_id, chunks, vectors)

    async def link(self, namespace: str, document_id: str, chunk_ids: Sequence[str]) -> bool:
        """Make the document consist of exactly these chunks; False if one is not stored."""
        return await self._run(self._store.link, namespace, document_id, chunk_ids)

    async def unlink(self, namespace: str, document_id: str) -> None:
        """Remove the document, and those of its chunks that no other document has."""
        await self._run(self._store.unlink, namespace, document_id)

    async def count(self, namespace: str, document_id: str) -> int:
        """Return how many distinct chunks are stored for the document."""
        return await self._run(self._store.count, namespace, document_id)

    async def contents(self, namespace: str) -> Mapping[str, frozenset[str]]:
        """Return the ids of each linked document's chunks; under "" those of no document."""
        return await self._run(self._store.contents, namespace)

    async def read(self, namespace: str, chunk_ids: Collection[str]) -> Sequence[Embedded]:
        """Return those of the chunks that are stored, with their vectors."""
        return await self._run(self._store.read, namespace, chunk_ids)

    async def search(
        self, namespace: str, vector: Vectors, *, document_ids: Collection[str], limit: int
    ) -> list[Hit]:
        """Return the chunks of these documents nearest to the vector, best first."""
        return await self._run(self._store.search, namespace, vector, document_ids, limit)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def translated() -> T:
            with sqlite_errors():
                return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._executor, translated)
