"""An index at an emulator of Pinecone, with something to search in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from services.retrieval.adapters.pinecone import PineconeVectorIndex
from services.retrieval.model import Chunk
from services.retrieval.ports import Vectors
from services.retrieval.settings import PineconeOptions
from tests.emulators.pinecone import Emulator, pinecone_emulator

TENANT = "acme"
DIMENSION = 16
CHUNKS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinecone:
    """A running emulator, and how it is reached."""

    emulator: Emulator
    options: PineconeOptions

    @asynccontextmanager
    async def opened(self, **settings: Any) -> AsyncIterator[PineconeVectorIndex]:
        """Open the index "passages", with other *settings* if any are given."""
        options = replace(self.options, **settings)
        async with PineconeVectorIndex.open(
            "passages", options, embedder="test", dimension=DIMENSION
        ) as index:
            yield index

    def stored(self) -> set[str]:
        """Return the ids of all records of the index, in whatever namespace."""
        index = self.emulator.indexes["passages"]
        return {id_ for name in index.namespaces for id_ in index.read(name)}


@asynccontextmanager
async def running_pinecone(folder: Path) -> AsyncIterator[Pinecone]:
    """Run an emulator over TLS."""
    async with pinecone_emulator(tls=folder) as emulator:
        options = PineconeOptions(
            api_key="a key",
            control_host=emulator.url,
            ca_file=emulator.authority,
            backoff=0.005,
        )
        yield Pinecone(emulator=emulator, options=options)


def passages(number: int = CHUNKS) -> list[Chunk]:
    return [Chunk(id=f"chunk-{n}", text=f"passage {n}") for n in range(number)]


def vectors(number: int = CHUNKS) -> Vectors:
    """Return unit vectors that all differ; the same ones each time."""
    drawn = np.random.default_rng(7).normal(size=(number, DIMENSION)).astype(np.float32)
    unit: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


async def add(index: PineconeVectorIndex, document: str = "d", number: int = CHUNKS) -> None:
    """Store a document of so many chunks."""
    chunks = passages(number)
    await index.upsert(TENANT, document, chunks, vectors(number))
    assert await index.link(TENANT, document, [chunk.id for chunk in chunks])


async def nearest(index: PineconeVectorIndex, number: int) -> str:
    """Search for the vector of that chunk; returns the text of what is found."""
    (hit,) = await index.search(TENANT, vectors()[number], document_ids=["d"], limit=1)
    return hit.chunk.text
