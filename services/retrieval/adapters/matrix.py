"""The vectors of one namespace in memory, and exact search over them."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.retrieval.ports import Vectors

Rows = NDArray[np.intp]
LEAST_CAPACITY = 256


class Matrix:
    """Unit vectors under integer keys, and the keys that make up each document.

    Rows of removed vectors are used again, so the matrix is only as large as it ever had to be. No
    document refers to such a row, and only documents are searched.
    """

    def __init__(self, dimension: int) -> None:
        self._vectors: Vectors = np.zeros((LEAST_CAPACITY, dimension), np.float32)
        self._keys = np.zeros(LEAST_CAPACITY, np.int64)
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        self._used = 0
        self._documents: dict[str, Rows] = {}

    def put(self, keys: Sequence[int], vectors: Vectors) -> None:
        """Add new keys with their vectors, [len(keys), dimension]."""
        self._reserve(len(keys))
        rows = [self._next_row() for _ in keys]
        self._vectors[rows] = vectors
        self._keys[rows] = keys
        self._rows.update(zip(keys, rows, strict=True))

    def link(self, documents: Mapping[str, Iterable[int]]) -> None:
        """Make each document consist of these keys, all of them known."""
        for document_id, keys in documents.items():
            rows = [self._rows[key] for key in keys]
            self._documents[document_id] = np.unique(np.array(rows, np.intp))

    def unlink(self, document_id: str, removed: Iterable[int]) -> None:
        """Forget the document, and the keys that no document has any more."""
        self._documents.pop(document_id, None)
        self._free.extend(self._rows.pop(key) for key in removed)

    def nearest(
        self, vector: Vectors, document_ids: Collection[str], limit: int
    ) -> list[tuple[int, float]]:
        """Return the keys in these documents nearest to the vector, with their cosines."""
        rows = self._rows_of(document_ids)
        scores = self._scores(rows, vector)
        if limit < len(rows):
            best = np.argpartition(-scores, limit)[:limit]
            rows, scores = rows[best], scores[best]
        order = np.argsort(-scores, kind="stable")
        found = zip(self._keys[rows[order]], scores[order], strict=True)
        return [(int(key), float(score)) for key, score in found]

    def _rows_of(self, document_ids: Collection[str]) -> Rows:
        wanted = np.zeros(self._used, np.bool_)
        for document_id in document_ids:
            if (rows := self._documents.get(document_id)) is not None:
                wanted[rows] = True
        return np.flatnonzero(wanted)

    def _scores(self, rows: Rows, vector: Vectors) -> Vectors:
        if len(rows) * 2 < self._used:
            scores: Vectors = self._vectors[rows] @ vector
            return scores
        # To copy most of the rows costs more than to compare all of them in place.
        scores = self._vectors[: self._used] @ vector
        return scores[rows]

    def _next_row(self) -> int:
        if self._free:
            return self._free.pop()
        self._used += 1
        return self._used - 1

    def _reserve(self, count: int) -> None:
        needed = self._used + max(0, count - len(self._free))
        if needed > len(self._keys):
            capacity = max(needed, 2 * len(self._keys))
            self._vectors = np.resize(self._vectors, (capacity, self._vectors.shape[1]))
            self._keys = np.resize(self._keys, capacity)
