"""Vectors on this machine: SQLite keeps them, numpy compares them all.

One thread owns the database and the matrices, so nothing is shared between threads. A matrix is
only a copy of what SQLite has committed: it is read when its namespace is first searched, and a
process that is killed loses nothing that it had answered.
"""

import asyncio
import json
import sqlite3
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import groupby
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

import numpy as np

from services.retrieval.adapters.matrix import Matrix
from services.retrieval.errors import IndexDamaged, IndexUnavailable
from services.retrieval.model import Chunk
from services.retrieval.ports import Hit, Vectors

P = ParamSpec("P")
T = TypeVar("T")

LOCK_SECONDS = 2.0
"""How long to wait for a process before this one to let go of the file."""
STORED = np.dtype("<f4")
"""Files may move between machines."""
AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOLFS,
    }
)
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    key INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    chunk_id TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (namespace, chunk_id)
);
CREATE TABLE IF NOT EXISTS links (
    namespace TEXT NOT NULL,
    document_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    chunk INTEGER NOT NULL REFERENCES chunks (key),
    PRIMARY KEY (namespace, document_id, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS links_by_chunk ON links (chunk);
"""


class LocalVectorIndex:
    """A `VectorIndex` for one process, with exact search."""

    def __init__(self, store: "_Store", executor: ThreadPoolExecutor) -> None:
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
            store = await opened(executor, _Store.open, folder / f"{embedder}.sqlite3", dimension)
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

    async def search(
        self, namespace: str, vector: Vectors, *, document_ids: Collection[str], limit: int
    ) -> list[Hit]:
        """Return the chunks of these documents nearest to the vector, best first."""
        return await self._run(self._store.search, namespace, vector, document_ids, limit)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def translated() -> T:
            with _sqlite_errors():
                return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._executor, translated)


def staged(key: int) -> int:
    """Return the place of a chunk that its document is not linked to yet: negative, and its own.

    So every chunk has a link from its first moment, and none is left behind by a document that
    never came to be.
    """
    return -key


class _Store:
    """The database and the matrices read from it; used by one thread only."""

    def __init__(self, database: sqlite3.Connection, dimension: int) -> None:
        self._database = database
        self._dimension = dimension
        self._matrices: dict[str, Matrix] = {}

    @classmethod
    def open(cls, path: Path, dimension: int) -> Self:
        with _sqlite_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, isolation_level=None, timeout=LOCK_SECONDS)
            # A second process would not see what this one adds to its matrices: it is kept out.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = WAL")
            # What was answered as stored must survive a power cut too.
            database.execute("PRAGMA synchronous = FULL")
            database.executescript(SCHEMA)
            return cls(database, dimension)

    def close(self) -> None:
        self._database.close()

    def missing(self, namespace: str, chunk_ids: Collection[str]) -> frozenset[str]:
        return frozenset(chunk_ids) - self._keys(namespace, chunk_ids).keys()

    def upsert(
        self, namespace: str, document_id: str, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        stored = np.ascontiguousarray(vectors, STORED).reshape(len(chunks), self._dimension)
        new: dict[int, Vectors] = {}
        with self._transaction():
            for chunk, vector in zip(chunks, stored, strict=True):
                key = self._inserted(namespace, chunk, vector.tobytes())
                new |= {} if key is None else {key: vector}
            self._insert_links(namespace, document_id, [(staged(key), key) for key in new])
        if new and (matrix := self._matrices.get(namespace)):
            matrix.put(list(new), np.stack(list(new.values())))

    def link(self, namespace: str, document_id: str, chunk_ids: Sequence[str]) -> bool:
        with self._transaction():
            keys = self._keys(namespace, chunk_ids)
            if len(keys) < len(set(chunk_ids)):
                return False
            had = self._remove_links(namespace, document_id)
            places = [(position, keys[id_]) for position, id_ in enumerate(chunk_ids)]
            self._insert_links(namespace, document_id, places)
            removed = self._remove_unlinked(had)
        if matrix := self._matrices.get(namespace):
            matrix.unlink(document_id, removed)
            matrix.link({document_id: keys.values()})
        return True

    def unlink(self, namespace: str, document_id: str) -> None:
        with self._transaction():
            had = self._remove_links(namespace, document_id)
            removed = self._remove_unlinked(had if document_id else self._remove_staged(namespace))
        if matrix := self._matrices.get(namespace):
            matrix.unlink(document_id, removed)

    def count(self, namespace: str, document_id: str) -> int:
        (count,) = self._database.execute(
            "SELECT count(DISTINCT chunk) FROM links WHERE namespace = ? AND document_id = ?",
            [namespace, document_id],
        ).fetchone()
        return int(count)

    def contents(self, namespace: str) -> dict[str, frozenset[str]]:
        rows = self._database.execute(
            "SELECT document_id, chunk_id FROM links JOIN chunks ON chunks.key = links.chunk"
            " WHERE links.namespace = ? AND position >= 0"
            " UNION SELECT '', chunk_id FROM chunks WHERE namespace = ? AND NOT EXISTS"
            " (SELECT 1 FROM links WHERE chunk = chunks.key AND position >= 0) ORDER BY 1",
            [namespace, namespace],
        )
        by_document = groupby(rows, key=lambda row: str(row[0]))
        return {one: frozenset(chunk_id for _, chunk_id in group) for one, group in by_document}

    def search(
        self, namespace: str, vector: Vectors, document_ids: Collection[str], limit: int
    ) -> list[Hit]:
        if namespace not in self._matrices:
            self._matrices[namespace] = self._read(namespace)
        found = self._matrices[namespace].nearest(vector, document_ids, limit)
        places = self._places([key for key, _ in found], frozenset(document_ids))
        return [
            Hit(document_id=document_id, position=position, chunk=chunk, score=score)
            for (document_id, position, chunk), score in (
                (places[key], score) for key, score in found
            )
        ]

    def _places(
        self, keys: Sequence[int], document_ids: frozenset[str]
    ) -> dict[int, tuple[str, int, Chunk]]:
        """Return one place of each chunk in these documents."""
        rows = self._database.execute(
            "SELECT chunks.key, document_id, position, chunk_id, text FROM json_each(?) AS wanted"
            " JOIN chunks ON chunks.key = wanted.value"
            " JOIN links ON links.chunk = chunks.key AND position >= 0"
            " ORDER BY document_id DESC, position DESC",
            [json.dumps(keys)],
        )
        return {
            key: (document_id, position, Chunk(id=chunk_id, text=text))
            for key, document_id, position, chunk_id, text in rows
            if document_id in document_ids
        }

    def _keys(self, namespace: str, chunk_ids: Collection[str]) -> dict[str, int]:
        rows = self._database.execute(
            "SELECT chunk_id, key FROM chunks"
            " WHERE namespace = ? AND chunk_id IN (SELECT value FROM json_each(?))",
            [namespace, json.dumps(list(chunk_ids))],
        )
        return dict(rows.fetchall())

    def _inserted(self, namespace: str, chunk: Chunk, vector: bytes) -> int | None:
        """Return the key of the new chunk, None if it is stored already."""
        row = self._database.execute(
            "INSERT INTO chunks (namespace, chunk_id, text, vector) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING RETURNING key",
            [namespace, chunk.id, chunk.text, vector],
        ).fetchone()
        return None if row is None else int(row[0])

    def _insert_links(
        self, namespace: str, document_id: str, places: Iterable[tuple[int, int]]
    ) -> None:
        self._database.executemany(
            "INSERT INTO links (namespace, document_id, position, chunk) VALUES (?, ?, ?, ?)",
            [(namespace, document_id, position, key) for position, key in places],
        )

    def _remove_staged(self, namespace: str) -> list[int]:
        """Return the keys of the chunks that are part of no document, without any link."""
        self._database.execute(
            "DELETE FROM links WHERE namespace = ? AND position < 0 AND NOT EXISTS"
            " (SELECT 1 FROM links AS real WHERE real.chunk = links.chunk AND real.position >= 0)",
            [namespace],
        )
        rows = self._database.execute(
            "SELECT key FROM chunks WHERE namespace = ?"
            " AND NOT EXISTS (SELECT 1 FROM links WHERE chunk = chunks.key)",
            [namespace],
        )
        return [key for (key,) in rows.fetchall()]

    def _remove_unlinked(self, keys: Sequence[int]) -> list[int]:
        """Remove those of the chunks that no document has, and return their keys."""
        rows = self._database.execute(
            "DELETE FROM chunks WHERE key IN (SELECT value FROM json_each(?))"
            " AND NOT EXISTS (SELECT 1 FROM links WHERE chunk = chunks.key) RETURNING key",
            [json.dumps(keys)],
        )
        return [key for (key,) in rows.fetchall()]

    def _remove_links(self, namespace: str, document_id: str) -> list[int]:
        """Return the keys of the chunks that the document had."""
        rows = self._database.execute(
            "DELETE FROM links WHERE namespace = ? AND document_id = ? RETURNING chunk",
            [namespace, document_id],
        )
        return [key for (key,) in rows.fetchall()]

    def _read(self, namespace: str) -> Matrix:
        matrix = Matrix(self._dimension)
        rows = self._database.execute(
            "SELECT key, vector FROM chunks WHERE namespace = ?", [namespace]
        ).fetchall()
        vectors = np.frombuffer(b"".join(vector for _, vector in rows), STORED)
        matrix.put([key for key, _ in rows], vectors.reshape(len(rows), self._dimension))
        links = self._database.execute(
            "SELECT document_id, chunk FROM links WHERE namespace = ? AND position >= 0"
            " ORDER BY document_id",
            [namespace],
        )
        by_document = groupby(links, key=lambda link: str(link[0]))
        matrix.link({id_: [chunk for _, chunk in group] for id_, group in by_document})
        return matrix

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.commit()
        except BaseException:
            self._database.rollback()
            raise


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    """Translate what SQLite says of its file; what it says of a statement is a bug and passes."""
    try:
        yield
    except OSError as error:
        raise IndexUnavailable(f"the vector index cannot be opened: {error.strerror}") from error
    except sqlite3.Error as error:
        # The low byte is the kind, the others tell more.
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if kind in DAMAGED:
            raise IndexDamaged(f"the vector index cannot be read: {error}") from error
        if kind in AWAY:
            raise IndexUnavailable(f"the vector index does not answer: {error}") from error
        raise
