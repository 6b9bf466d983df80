"""How documents are laid out as Pinecone's records: one for each distinct chunk of each document.

    <document>#<chunk>    the vector; chunk, text, document, position

Pinecone changes records whole, one by one, and without comparing what was there before. A list of
documents on a record of a shared chunk would lose one of two documents that are added at the same
time. So each document has records of its own, and the vector of a shared chunk is copied.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import numpy as np

from services.retrieval.errors import IndexDamaged
from services.retrieval.model import Chunk
from services.retrieval.ports import Embedded, Hit, Vectors

Record: TypeAlias = dict[str, Any]
"""As `upsert` takes it: id, values, metadata."""
Metadata: TypeAlias = Mapping[str, Any]

MOST_BYTES = 1_500_000
"""Of one request; Pinecone takes 2 MB."""
MOST_RECORDS = 500
"""Of one request; Pinecone takes 1000."""
BYTES_A_NUMBER = 13
BYTES_A_RECORD = 512
DECIMALS = 8
"""More than a 32-bit float of a unit vector holds, in half as many characters."""


def space_of(scope: str, embedder: str, namespace: str) -> str:
    """Return Pinecone's namespace; quoted parts cannot run into each other."""
    parts = [*([scope] if scope else []), embedder, namespace]
    return ":".join(quote(part, safe="") for part in parts)


def prefix_of(document_id: str) -> str:
    """Return what the ids of the document's records begin with, and no others."""
    return f"{quote(document_id, safe='')}#"


def record_id(document_id: str, chunk_id: str) -> str:
    """Return the id of that chunk's record in that document."""
    return prefix_of(document_id) + quote(chunk_id, safe="")


def ids_of(record: str) -> tuple[str, str]:
    """Return the document and the chunk of a record's id; raises IndexDamaged."""
    document_id, separator, chunk_id = record.partition("#")
    if not separator:
        raise _foreign()
    return unquote(document_id), unquote(chunk_id)


def numbers(vector: Vectors) -> list[float]:
    """Return the vector as it is sent."""
    rounded: list[float] = np.round(vector.astype(np.float64), DECIMALS).tolist()
    return rounded


def records_of(
    document_id: str, chunk_ids: Sequence[str], known: Mapping[str, Embedded]
) -> Iterator[Record]:
    """Make a record for each distinct chunk of the document, at its first place."""
    places: dict[str, int] = {}
    for position, chunk_id in enumerate(chunk_ids):
        places.setdefault(chunk_id, position)
    for chunk_id, position in places.items():
        yield {
            "id": record_id(document_id, chunk_id),
            "values": numbers(known[chunk_id].vector),
            "metadata": {
                "chunk": chunk_id,
                "text": known[chunk_id].chunk.text,
                "document": document_id,
                "position": position,
            },
        }


def embedded_of(metadata: Metadata | None, values: Sequence[float]) -> Embedded:
    """Read a chunk with its vector; raises IndexDamaged."""
    return Embedded(chunk=_chunk_of(metadata), vector=np.asarray(values, np.float32))


def hit_of(metadata: Metadata | None, score: float) -> Hit:
    """Read what a search found; raises IndexDamaged. Numbers come back as floats."""
    chunk = _chunk_of(metadata)
    match metadata:
        case {"document": str(document_id), "position": float() | int() as position}:
            return Hit(document_id=document_id, position=int(position), chunk=chunk, score=score)
        case _:
            raise _foreign()


def _chunk_of(metadata: Metadata | None) -> Chunk:
    match metadata:
        case {"chunk": str(chunk_id), "text": str(text)}:
            return Chunk(id=chunk_id, text=text)
        case _:
            raise _foreign()


def _foreign() -> IndexDamaged:
    return IndexDamaged("the vector index holds a record that is not one of this service's")


def requests_of(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Cut the records into requests that Pinecone takes, by their number and their bytes."""
    batch: list[Record] = []
    size = 0
    for record in records:
        weight = _weight(record)
        if batch and (size + weight > MOST_BYTES or len(batch) == MOST_RECORDS):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += weight
    if batch:
        yield batch


def _weight(record: Record) -> int:
    # Escapes make a text longer, by six times at worst; twice its UTF-8 is plenty in prose.
    text = record["metadata"]["text"]
    return BYTES_A_RECORD + BYTES_A_NUMBER * len(record["values"]) + 2 * len(text.encode())
