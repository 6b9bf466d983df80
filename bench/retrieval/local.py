"""`python -m bench.retrieval.local FOLDER`: searches of a local index, in a process of its own."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import psutil

from bench.retrieval.site import drawn
from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.model import Chunk
from tests.backends.process import scratch_folder

EMBEDDER, TENANT, DIMENSION = "bench", "acme", 256
DOCUMENTS, CHUNKS = 100, 1000
"""And chunks of each."""
TEXT = "A sentence of a passage that somebody may look for. " * 15
SEARCHES, FOUND = 300, 20


async def measured() -> Mapping[str, float]:
    """Build an index of 100,000 chunks in one namespace, and return what searching it costs."""
    with scratch_folder("vectors") as folder:
        await _build(folder)
        command = [sys.executable, "-m", "bench.retrieval.local", str(folder)]
        run = partial(subprocess.run, command, check=True, stdout=subprocess.PIPE)
        figures: Mapping[str, float] = json.loads((await asyncio.to_thread(run)).stdout)
        return figures


async def _build(folder: Path) -> None:
    opened = LocalVectorIndex.open(folder, embedder=EMBEDDER, dimension=DIMENSION)
    vectors = drawn(DOCUMENTS * CHUNKS)
    async with opened as index:
        for number in range(DOCUMENTS):
            first = number * CHUNKS
            chunks = [Chunk(id=str(first + n), text=TEXT) for n in range(CHUNKS)]
            name = f"document-{number}"
            await index.upsert(TENANT, name, chunks, vectors[first : first + CHUNKS])
            await index.link(TENANT, name, [chunk.id for chunk in chunks])


async def _search(folder: Path) -> dict[str, float]:
    queries = drawn(SEARCHES)
    documents = [f"document-{number}" for number in range(DOCUMENTS)]
    before, began = _resident(), time.perf_counter()
    opened = LocalVectorIndex.open(folder, embedder=EMBEDDER, dimension=DIMENSION)
    async with opened as index:
        await index.search(TENANT, queries[0], document_ids=documents, limit=FOUND)
        first = time.perf_counter() - began
        seconds, processor = [], time.process_time()
        for query in queries:
            began = time.perf_counter()
            await index.search(TENANT, query, document_ids=documents, limit=FOUND)
            seconds.append(time.perf_counter() - began)
        processor = time.process_time() - processor
        return {
            "local_100k_first_search_ms": round(first * 1000, 1),
            "local_100k_p50_ms": round(median(seconds) * 1000, 2),
            "local_100k_p99_ms": round(quantiles(seconds, n=100)[98] * 1000, 2),
            "local_100k_cpu_ms": round(processor / SEARCHES * 1000, 2),
            "local_100k_mib": round((_resident() - before) / 2**20, 1),
        }


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_search(Path(sys.argv[1])))))
