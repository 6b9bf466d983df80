"""What the retrieval service needs from the outside world."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.retrieval.model import Chunk

Vectors = NDArray[np.float32]
"""One unit vector per row, [n, dimension]; or a single one, [dimension]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A chunk near the vector that was searched for, at one place where it stands."""

    document_id: str
    position: int
    """Place among the chunks of that document, from 0."""
    chunk: Chunk
    score: float
    """Cosine similarity, -1 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A chunk with its vector, [dimension]."""

    chunk: Chunk
    vector: Vectors


class Embedder(Protocol):
    """Turns texts into vectors whose angles tell how near the texts are in meaning.

    The vector of a text depends on that text alone, not on the others of the call.
    """

    @property
    def name(self) -> str:
        """The model, precisely: vectors of one name may be compared."""
        ...

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        ...

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """Return the texts' vectors, [len(texts), dimension], each of length 1.

        Some models embed a *query* in another way than what it is to find.
        Raises EmbedderUnavailable.
        """
        ...


class VectorIndex(Protocol):
    """Chunks with their vectors, and which documents they are part of.

    A namespace is a tenant; nothing is shared between two of them. Within one a chunk is embedded
    once, however many documents have it. Every write may be repeated and then changes nothing
    more. All methods raise IndexUnavailable and IndexTooSlow, after which a write may or may not
    have happened, IndexDamaged and IndexRefused.
    """

    async def missing(self, namespace: str, chunk_ids: Collection[str]) -> frozenset[str]:
        """Return those of the ids that are not stored."""
        ...

    async def upsert(
        self, namespace: str, document_id: str, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Store chunks for a document, with their vectors, [len(chunks), dimension].

        They are not found before a document is linked to them, and go when theirs is unlinked, or
        linked without them, and no other document has them.
        """
        ...

    async def link(self, namespace: str, document_id: str, chunk_ids: Sequence[str]) -> bool:
        """Make the document consist of exactly these stored chunks, in this order.

        What it had before goes, unless another document has it. Returns False, and changes
        nothing, if one of the chunks is not stored (any more): another document that had it was
        removed meanwhile.
        """
        ...

    async def unlink(self, namespace: str, document_id: str) -> None:
        """Remove the document, and those of its chunks that no other document has.

        A document that is not there is no error. An empty id stands for the chunks that are part
        of no document.
        """
        ...

    async def count(self, namespace: str, document_id: str) -> int:
        """Return how many distinct chunks are stored for the document, linked or not."""
        ...

    async def contents(self, namespace: str) -> Mapping[str, frozenset[str]]:
        """Return the ids of the chunks of each document that is linked.

        Under an empty name: those that are stored, and part of no document.
        """
        ...

    async def read(self, namespace: str, chunk_ids: Collection[str]) -> Sequence[Embedded]:
        """Return those of the chunks that are stored, with their vectors, in any order."""
        ...

    async def search(
        self, namespace: str, vector: Vectors, *, document_ids: Collection[str], limit: int
    ) -> list[Hit]:
        """Return the chunks of these documents nearest to the vector, best first.

        Each chunk is returned once, at one of its places in these documents. No documents, no
        hits.
        """
        ...
