"""Exact search over the vectors of one namespace."""

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from services.retrieval.ports import Vectors

Places = NDArray[np.intp]
ROWS_AT_A_TIME = 4096
"""That are copied to be compared: few enough to stay in the processor's cache."""


class Matrix:
    """Which rows of a file of unit vectors make up each document, and which of them are near."""

    def __init__(self, mapped: Callable[[int], Vectors]) -> None:
        """Read the vectors by *mapped*, which returns at least so many rows."""
        self._mapped = mapped
        self._documents: dict[str, Places] = {}

    def link(self, documents: Mapping[str, Iterable[int]]) -> None:
        """Make each document consist of these rows."""
        for document_id, rows in documents.items():
            self._documents[document_id] = np.unique(np.fromiter(rows, np.intp))

    def unlink(self, document_id: str) -> None:
        """Forget the document."""
        self._documents.pop(document_id, None)

    def nearest(
        self, vector: Vectors, document_ids: Collection[str], limit: int
    ) -> list[tuple[int, float]]:
        """Return the rows in these documents nearest to the vector, with their cosines."""
        rows = self._rows_of(document_ids)
        if not len(rows):
            return []
        scores = self._scores(rows, vector)
        if limit < len(rows):
            best = np.argpartition(-scores, limit)[:limit]
            rows, scores = rows[best], scores[best]
        order = np.argsort(-scores, kind="stable")
        found = zip(rows[order], scores[order], strict=True)
        return [(int(row), float(score)) for row, score in found]

    def _rows_of(self, document_ids: Collection[str]) -> Places:
        known = (self._documents.get(document_id) for document_id in set(document_ids))
        parts = [rows for rows in known if rows is not None]
        if not parts:
            return np.zeros(0, np.intp)
        wanted = np.zeros(max(int(rows.max(initial=-1)) for rows in parts) + 1, np.bool_)
        for rows in parts:
            wanted[rows] = True
        return np.flatnonzero(wanted)

    def _scores(self, rows: Places, vector: Vectors) -> Vectors:
        end = int(rows[-1]) + 1
        vectors = self._mapped(end)
        if len(rows) * 2 < end:
            starts = range(0, len(rows), ROWS_AT_A_TIME)
            parts = [vectors[rows[start : start + ROWS_AT_A_TIME]] @ vector for start in starts]
            return np.concatenate(parts)
        # To copy most of the rows costs more than to compare all of them in place.
        scores: Vectors = (vectors[:end] @ vector)[rows]
        return scores
