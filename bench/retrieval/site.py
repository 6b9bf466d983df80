"""An index at an emulator of Pinecone in a process of its own, over TLS."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pinecone import AsyncIndex

from services.retrieval.adapters.pinecone import PineconeVectorIndex, trusting
from services.retrieval.adapters.pinecone_records import numbers, space_of
from services.retrieval.model import Chunk
from services.retrieval.ports import Vectors
from services.retrieval.settings import PineconeOptions
from tests.backends.process import Process, scratch_folder

NAME, EMBEDDER, TENANT, DOCUMENT = "passages", "bench", "acme", "d"
CHUNKS, DIMENSION, FOUND = 1000, 256, 20
CHARACTERS = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where to search, and for what."""

    host: str
    options: PineconeOptions
    queries: Sequence[Sequence[float]]

    async def search(self, handle: AsyncIndex, number: int) -> None:
        """Search as the service does; the same request for the same number."""
        found = await handle.query(
            vector=self.queries[number % CHUNKS],
            # Distinct requests, so that a plan of faults decides for each alone.
            top_k=FOUND + number // CHUNKS,
            namespace=space_of("", EMBEDDER, TENANT),
            filter={"document": {"$in": [DOCUMENT]}},
            include_metadata=True,
        )
        if len(found.matches) < FOUND:
            raise RuntimeError("the emulator found too little")

    async def follow(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Spoil requests by these rules from now on, and begin a new log of requests."""
        async with self._emulator() as emulator:
            (await emulator.put("/plan", json={"rules": rules})).raise_for_status()

    async def requests(self) -> Sequence[Mapping[str, Any]]:
        """Return the log of requests since the last plan."""
        async with self._emulator() as emulator:
            log: Sequence[Mapping[str, Any]] = (await emulator.get("/requests")).json()["requests"]
            return log

    @asynccontextmanager
    async def _emulator(self) -> AsyncIterator[httpx.AsyncClient]:
        trusted = trusting(self.options.ca_file)
        async with httpx.AsyncClient(base_url=self.options.control_host, verify=trusted) as client:
            yield client


@asynccontextmanager
async def running_site() -> AsyncIterator[Site]:
    """Start the emulator with an index of one document."""
    with scratch_folder("pinecone") as folder:
        log = folder / "log"
        emulator = [sys.executable, "-m", "tests.emulators.pinecone"]
        process = Process([*emulator, "--port", "0", "--tls", str(folder)], log=log)
        await process.started(lambda: _ready(log))
        try:
            options = PineconeOptions(
                api_key="a key",
                control_host=log.read_text().split()[1],
                ca_file=str(folder / "authority.pem"),
            )
            vectors = drawn(CHUNKS)
            await _fill(options, vectors)
            yield Site(
                host=f"{options.control_host}/index/{NAME}",
                options=options,
                queries=[numbers(vector) for vector in vectors],
            )
        finally:
            await process.kill()


def drawn(number: int) -> Vectors:
    """Return unit vectors, [number, dimension], the same ones each time."""
    vectors = np.random.default_rng(7).normal(size=(number, DIMENSION)).astype(np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


async def _ready(log: Path) -> bool:
    return "ready " in await asyncio.to_thread(log.read_text)


async def _fill(options: PineconeOptions, vectors: Vectors) -> None:
    text = "A sentence of a passage that somebody may look for. " * (CHARACTERS // 52)
    chunks = [Chunk(id=f"chunk-{number}", text=f"{number} {text}") for number in range(CHUNKS)]
    async with PineconeVectorIndex.open(
        NAME, options, embedder=EMBEDDER, dimension=DIMENSION
    ) as index:
        await index.upsert(TENANT, DOCUMENT, chunks, vectors)
        await index.link(TENANT, DOCUMENT, [chunk.id for chunk in chunks])
