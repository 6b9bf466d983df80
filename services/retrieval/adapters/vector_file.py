"""The vectors of one namespace in a file, mapped into memory to be compared.

Which row is whose is said by whoever keeps the file: a row that nobody refers to is free.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from services.retrieval.errors import IndexDamaged
from services.retrieval.ports import Vectors

STORED = np.dtype("<f4")
"""Files may move between machines."""


class VectorFile:
    """Rows of vectors of one dimension.

    It is read through a map, so the system holds as much of it in memory as there is room for. It
    is written by calls: writing through the map would end the process where the disk is full.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        self._path = path
        self._dimension = dimension
        self._mapped: Vectors = np.zeros((0, dimension), STORED)

    def write(self, rows: Sequence[int], vectors: Vectors) -> None:
        """Store the vectors, [len(rows), dimension], in these rows; returns once they are safe.

        Raises OSError, after which the rows may hold anything.
        """
        with self._opened() as file:
            for row, vector in zip(rows, vectors, strict=True):
                file.seek(row * self._row_bytes)
                file.write(np.ascontiguousarray(vector, STORED).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def mapped(self, rows: int) -> Vectors:
        """Return at least that many rows, as they are in the file; raises IndexDamaged."""
        if rows > len(self._mapped):
            there = self._path.stat().st_size // self._row_bytes if self._path.exists() else 0
            if there < rows:
                raise IndexDamaged(f"{self._path.name} has {there} vectors of {rows}")
            self._mapped = np.memmap(self._path, STORED, "r", shape=(there, self._dimension))
        return self._mapped

    def clear(self) -> None:
        """Give back the space of a file whose rows are all free."""
        self._mapped = np.zeros((0, self._dimension), STORED)
        self._path.unlink(missing_ok=True)

    @property
    def _row_bytes(self) -> int:
        return self._dimension * STORED.itemsize

    def _opened(self) -> BinaryIO:
        try:
            return self._path.open("r+b")
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("w+b")
            _keep_name(self._path.parent)
            return file


def _keep_name(folder: Path) -> None:
    """Make sure that the folder still lists its new file after a power cut."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


class Rows:
    """Which rows of a file are in use."""

    def __init__(self, used: Iterable[int]) -> None:
        taken = np.fromiter(used, np.int64)
        self._end = int(taken.max()) + 1 if len(taken) else 0
        self._free: list[int] = np.setdiff1d(np.arange(self._end), taken).tolist()

    @property
    def end(self) -> int:
        """All rows in use are below it."""
        return self._end

    @property
    def empty(self) -> bool:
        """Whether no row is in use."""
        return len(self._free) == self._end

    def choose(self, count: int) -> list[int]:
        """Return so many free rows; they stay free until they are taken."""
        reused = self._free[max(0, len(self._free) - count) :]
        return [*reused, *range(self._end, self._end + count - len(reused))]

    def take(self, chosen: Sequence[int]) -> None:
        """Use the rows that were chosen last."""
        reused = sum(row < self._end for row in chosen)
        del self._free[len(self._free) - reused :]
        self._end += len(chosen) - reused

    def release(self, rows: Iterable[int]) -> None:
        """Use the rows no more."""
        self._free.extend(rows)

    def clear(self) -> None:
        """Begin anew with an empty file."""
        self._end, self._free = 0, []
