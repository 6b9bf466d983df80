"""Records as Pinecone keeps them: whole, by id, in namespaces; read as they were a moment ago."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

Values: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Metadata: TypeAlias = Mapping[str, Any]

MOST_METADATA_BYTES = 40 * 1024


class Refused(Exception):
    """The request cannot be done: a status and what is wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    id: str
    values: Values
    metadata: Metadata

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "values": self.values.tolist(), "metadata": self.metadata}


@dataclass(kw_only=True)
class Namespace:
    """Records in the order of their first writing."""

    records: dict[str, Record] = field(default_factory=dict)
    later: list[tuple[float, Callable[[dict[str, Record]], None]]] = field(default_factory=list)
    written: int = 0
    """The log sequence number of the last write."""

    @property
    def readable(self) -> int:
        """The log sequence number of the last write that reads see."""
        return self.written - len(self.later)


@dataclass(kw_only=True)
class Index:
    """One index; *lag* is how many seconds writes take until they are read."""

    name: str
    dimension: int
    metric: str
    lag: float = 0.0
    namespaces: dict[str, Namespace] = field(default_factory=dict)

    def write(self, namespace: str, records: Sequence[Record]) -> int:
        """Return the write's log sequence number."""
        for record in records:
            if len(record.values) != self.dimension:
                raise Refused(400, f"Vector dimension {len(record.values)} is not the index's")
            if not record.values.any():
                raise Refused(400, "Dense vectors must contain at least one non-zero value")
            if len(str(record.metadata).encode()) > MOST_METADATA_BYTES:
                raise Refused(400, "Metadata is larger than 40960 bytes")
        new = {record.id: record for record in records}
        space = self.namespaces.setdefault(namespace, Namespace())
        self._later(space, lambda kept: kept.update(new))
        return space.written

    def delete(self, namespace: str, ids: Sequence[str]) -> None:
        if namespace not in self.namespaces:
            raise Refused(404, "Namespace not found")

        def removed(kept: dict[str, Record]) -> None:
            for id_ in ids:
                kept.pop(id_, None)

        self._later(self.namespaces[namespace], removed)

    def read(self, namespace: str) -> Mapping[str, Record]:
        """Return what can be read now."""
        if (space := self.namespaces.get(namespace)) is None:
            return {}
        now = time.monotonic()
        while space.later and space.later[0][0] <= now:
            space.later.pop(0)[1](space.records)
        return space.records

    def nearest(
        self, namespace: str, vector: Sequence[float], wanted: Metadata | None, limit: int
    ) -> list[tuple[Record, float]]:
        """Return the records that fit the filter with their cosines, the nearest first."""
        query = np.asarray(vector, np.float32)
        if query.shape != (self.dimension,):
            raise Refused(400, f"Vector dimension {len(query)} is not the index's")
        fit = [one for one in self.read(namespace).values() if fits(wanted, one.metadata)]
        if not fit:
            return []
        matrix = np.stack([one.values for one in fit])
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        scores = (matrix @ query) / np.where(lengths > 0, lengths, 1)
        order = np.argsort(-scores, kind="stable")[:limit]
        return [(fit[row], float(scores[row])) for row in order]

    def readable(self, namespace: str) -> int:
        """Return the log sequence number up to which the last read saw the namespace."""
        return self.namespaces[namespace].readable if namespace in self.namespaces else 0

    def _later(self, space: Namespace, change: Callable[[dict[str, Record]], None]) -> None:
        space.written += 1
        space.later.append((time.monotonic() + self.lag, change))


def fits(wanted: Metadata | None, metadata: Metadata) -> bool:
    """Evaluate a metadata filter."""
    return all(_condition(name, value, metadata) for name, value in (wanted or {}).items())


def _condition(name: str, value: Any, metadata: Metadata) -> bool:
    if name == "$and":
        return all(fits(one, metadata) for one in value)
    if name == "$or":
        return any(fits(one, metadata) for one in value)
    tests = value if isinstance(value, Mapping) else {"$eq": value}
    return all(_test(operator, name, operand, metadata) for operator, operand in tests.items())


def _test(operator: str, name: str, operand: Any, metadata: Metadata) -> bool:
    if operator == "$exists":
        return (name in metadata) is bool(operand)
    stored = metadata.get(name)
    has = stored if isinstance(stored, list) else [stored] if name in metadata else []
    if operator in {"$ne", "$nin"}:
        unwanted = operand if operator == "$nin" else [operand]
        return not any(one in unwanted for one in has)
    if operator in COMPARED:
        return any(COMPARED[operator](one, operand) for one in has)
    raise Refused(400, f"{operator} is not a valid operator")


COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda one, operand: bool(one == operand),
    "$in": lambda one, operand: one in operand,
    "$gt": lambda one, operand: bool(one > operand),
    "$gte": lambda one, operand: bool(one >= operand),
    "$lt": lambda one, operand: bool(one < operand),
    "$lte": lambda one, operand: bool(one <= operand),
}
