"""Files keep the vectors, SQLite says whose they are, numpy compares them all.

A vector is safe in its file before SQLite commits whose it is, and its row is free again once
SQLite has committed that it is nobody's. So a process may be killed anywhere: a row is whole or
free, and nothing is lost that was answered. A namespace is opened when it is first used.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

import numpy as np

from services.retrieval.adapters.local_files import file_of, unpack
from services.retrieval.adapters.matrix import Matrix
from services.retrieval.adapters.vector_file import Rows, VectorFile
from services.retrieval.errors import IndexDamaged, IndexUnavailable
from services.retrieval.model import Chunk
from services.retrieval.ports import Embedded, Hit, Vectors

LOCK_SECONDS = 2.0
"""How long to wait for a process before this one to let go of the file."""
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
    place INTEGER NOT NULL,
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
CREATE UNIQUE INDEX IF NOT EXISTS chunks_by_place ON chunks (namespace, place);
"""


def staged(key: int) -> int:
    """Return the place of a chunk that its document is not linked to yet: negative, and its own.

    So every chunk has a link from its first moment, and none is left behind by a document that
    never came to be.
    """
    return -key


@dataclass(frozen=True, slots=True, kw_only=True)
class _Space:
    """What is known of a namespace that was used."""

    file: VectorFile
    rows: Rows
    matrix: Matrix


class LocalStore:
    """The database and the files of vectors; used by one thread only."""

    def __init__(self, database: sqlite3.Connection, folder: Path, dimension: int) -> None:
        self._database = database
        self._folder = folder
        self._dimension = dimension
        self._spaces: dict[str, _Space] = {}

    @classmethod
    def open(cls, path: Path, dimension: int) -> Self:
        with sqlite_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, isolation_level=None, timeout=LOCK_SECONDS)
            # A second process would not see what this one adds to its matrices: it is kept out.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = WAL")
            # What was answered as stored must survive a power cut too.
            database.execute("PRAGMA synchronous = FULL")
            folder = path.with_suffix(".vectors")
            unpack(database, folder, dimension)
            database.executescript(SCHEMA)
            return cls(database, folder, dimension)

    def close(self) -> None:
        self._database.close()

    def missing(self, namespace: str, chunk_ids: Collection[str]) -> frozenset[str]:
        return frozenset(chunk_ids) - self._keys(namespace, chunk_ids).keys()

    def upsert(
        self, namespace: str, document_id: str, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        stored = np.asarray(vectors).reshape(len(chunks), self._dimension)
        space = self._space(namespace)
        with self._transaction():
            known = self._keys(namespace, [chunk.id for chunk in chunks])
            pairs = zip(chunks, stored, strict=True)
            new = {chunk.id: (chunk, vector) for chunk, vector in pairs if chunk.id not in known}
            if not new:
                return
            places = space.rows.choose(len(new))
            space.file.write(places, np.stack([vector for _, vector in new.values()]))
            texts = (chunk for chunk, _ in new.values())
            keys = [self._inserted(namespace, *one) for one in zip(texts, places, strict=True)]
            self._insert_links(namespace, document_id, [(staged(key), key) for key in keys])
        space.rows.take(places)

    def link(self, namespace: str, document_id: str, chunk_ids: Sequence[str]) -> bool:
        space = self._space(namespace)
        with self._transaction():
            keys = self._keys(namespace, chunk_ids)
            if len(keys) < len(set(chunk_ids)):
                return False
            had = self._remove_links(namespace, document_id)
            positions = [(position, keys[id_]) for position, id_ in enumerate(chunk_ids)]
            self._insert_links(namespace, document_id, positions)
            removed = self._remove_unlinked(had)
            places = self._places_of(namespace, document_id)
        space.matrix.link({document_id: places})
        space.rows.release(removed)
        return True

    def unlink(self, namespace: str, document_id: str) -> None:
        space = self._space(namespace)
        with self._transaction():
            had = self._remove_links(namespace, document_id)
            removed = self._remove_unlinked(had if document_id else self._remove_staged(namespace))
        space.matrix.unlink(document_id)
        space.rows.release(removed)
        if space.rows.empty:
            space.rows.clear()
            space.file.clear()

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

    def read(self, namespace: str, chunk_ids: Collection[str]) -> list[Embedded]:
        space = self._space(namespace)
        rows = self._database.execute(
            "SELECT place, chunk_id, text FROM chunks"
            " WHERE namespace = ? AND chunk_id IN (SELECT value FROM json_each(?))",
            [namespace, json.dumps(list(chunk_ids))],
        ).fetchall()
        vectors = space.file.mapped(space.rows.end)
        return [
            Embedded(chunk=Chunk(id=chunk_id, text=text), vector=np.array(vectors[place]))
            for place, chunk_id, text in rows
        ]

    def search(
        self, namespace: str, vector: Vectors, document_ids: Collection[str], limit: int
    ) -> list[Hit]:
        found = self._space(namespace).matrix.nearest(vector, document_ids, limit)
        uses = self._uses(namespace, [place for place, _ in found], frozenset(document_ids))
        return [
            Hit(document_id=document_id, position=position, chunk=chunk, score=score)
            for (document_id, position, chunk), score in (
                (uses[place], score) for place, score in found
            )
        ]

    def _uses(
        self, namespace: str, places: Sequence[int], document_ids: frozenset[str]
    ) -> dict[int, tuple[str, int, Chunk]]:
        """Return where in these documents each chunk stands, once."""
        rows = self._database.execute(
            "SELECT place, document_id, position, chunk_id, text FROM json_each(?) AS wanted"
            " JOIN chunks ON chunks.namespace = ? AND place = wanted.value"
            " JOIN links ON links.chunk = chunks.key AND position >= 0"
            " ORDER BY document_id DESC, position DESC",
            [json.dumps(places), namespace],
        )
        return {
            place: (document_id, position, Chunk(id=chunk_id, text=text))
            for place, document_id, position, chunk_id, text in rows
            if document_id in document_ids
        }

    def _places_of(self, namespace: str, document_id: str) -> list[int]:
        rows = self._database.execute(
            "SELECT DISTINCT place FROM links JOIN chunks ON chunks.key = links.chunk"
            " WHERE links.namespace = ? AND document_id = ? AND position >= 0",
            [namespace, document_id],
        )
        return [place for (place,) in rows]

    def _keys(self, namespace: str, chunk_ids: Collection[str]) -> dict[str, int]:
        rows = self._database.execute(
            "SELECT chunk_id, key FROM chunks"
            " WHERE namespace = ? AND chunk_id IN (SELECT value FROM json_each(?))",
            [namespace, json.dumps(list(chunk_ids))],
        )
        return dict(rows.fetchall())

    def _inserted(self, namespace: str, chunk: Chunk, place: int) -> int:
        """Return the key of the new chunk."""
        (key,) = self._database.execute(
            "INSERT INTO chunks (namespace, chunk_id, text, place) VALUES (?, ?, ?, ?)"
            " RETURNING key",
            [namespace, chunk.id, chunk.text, place],
        ).fetchone()
        return int(key)

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
        """Remove those of the chunks that no document has, and return their places."""
        rows = self._database.execute(
            "DELETE FROM chunks WHERE key IN (SELECT value FROM json_each(?))"
            " AND NOT EXISTS (SELECT 1 FROM links WHERE chunk = chunks.key) RETURNING place",
            [json.dumps(keys)],
        )
        return [place for (place,) in rows.fetchall()]

    def _remove_links(self, namespace: str, document_id: str) -> list[int]:
        """Return the keys of the chunks that the document had."""
        rows = self._database.execute(
            "DELETE FROM links WHERE namespace = ? AND document_id = ? RETURNING chunk",
            [namespace, document_id],
        )
        return [key for (key,) in rows.fetchall()]

    def _space(self, namespace: str) -> _Space:
        """Return the namespace, opened if it was not yet."""
        if namespace not in self._spaces:
            used = self._database.execute(
                "SELECT place FROM chunks WHERE namespace = ?", [namespace]
            )
            rows = Rows(place for (place,) in used)
            file = VectorFile(file_of(self._folder, namespace), self._dimension)
            file.mapped(rows.end)
            matrix = Matrix(file.mapped)
            matrix.link(self._documents(namespace))
            self._spaces[namespace] = _Space(file=file, rows=rows, matrix=matrix)
        return self._spaces[namespace]

    def _documents(self, namespace: str) -> dict[str, list[int]]:
        """Return the places of each document's chunks."""
        links = self._database.execute(
            "SELECT document_id, place FROM links JOIN chunks ON chunks.key = links.chunk"
            " WHERE links.namespace = ? AND position >= 0 ORDER BY document_id",
            [namespace],
        )
        by_document = groupby(links, key=lambda link: str(link[0]))
        return {id_: [place for _, place in group] for id_, group in by_document}

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
def sqlite_errors() -> Iterator[None]:
    """Translate what SQLite says of its file; what it says of a statement is a bug and passes."""
    try:
        yield
    except OSError as error:
        message = f"the vector index cannot be read or written: {error.strerror}"
        raise IndexUnavailable(message) from error
    except sqlite3.Error as error:
        # The low byte is the kind, the others tell more.
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if kind in DAMAGED:
            raise IndexDamaged(f"the vector index cannot be read: {error}") from error
        if kind in AWAY:
            raise IndexUnavailable(f"the vector index does not answer: {error}") from error
        raise
