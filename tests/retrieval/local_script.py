"""What is done to a local index that is killed, and what must be in it then.

`python -m tests.retrieval.local_script FOLDER` does it for ever, and says after each call how many
are done.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.model import Chunk
from services.retrieval.ports import Vectors

TENANT, EMBEDDER, DIMENSION = "acme", "script", 16
DOCUMENTS, CHUNKS, NAMES = 4, 6, 15

State = dict[str, frozenset[str]]
"""The chunks of each linked document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A call, and what is linked once it is done."""

    call: str
    document: str
    chunks: tuple[str, ...]
    state: State


def steps() -> Iterator[Step]:
    """Yield steps for ever: documents come, change and go, and share chunks."""
    state: State = {}
    for turn in count():
        document = f"d{turn % DOCUMENTS}"
        chunks = tuple(f"c{(turn * turn + n) % NAMES}" for n in range(CHUNKS))
        yield Step(call="upsert", document=document, chunks=chunks, state=state)
        state = {**state, document: frozenset(chunks)}
        yield Step(call="link", document=document, chunks=chunks, state=state)
        if turn % 3 == 2:
            gone = f"d{turn * 7 % DOCUMENTS}"
            state = {name: has for name, has in state.items() if name != gone}
            yield Step(call="unlink", document=gone, chunks=(), state=state)


def vector(name: str) -> Vectors:
    """Return the vector of the chunk of that name."""
    drawn = np.random.default_rng(int(name[1:])).normal(size=DIMENSION).astype(np.float32)
    unit: Vectors = drawn / np.linalg.norm(drawn)
    return unit


async def do(index: LocalVectorIndex, step: Step) -> None:
    """Make the call."""
    if step.call == "upsert":
        chunks = [Chunk(id=name, text=f"text of {name}") for name in step.chunks]
        vectors = np.stack([vector(name) for name in step.chunks])
        await index.upsert(TENANT, step.document, chunks, vectors)
    elif step.call == "link":
        assert await index.link(TENANT, step.document, step.chunks)
    else:
        await index.unlink(TENANT, step.document)


async def state_of(folder: Path) -> State:
    """Open the index, see that every chunk of a document has its own vector; return its state."""
    async with LocalVectorIndex.open(folder, embedder=EMBEDDER, dimension=DIMENSION) as index:
        contents = dict(await index.contents(TENANT))
        # Those of the call that was cut off; they belong to its document.
        loose = contents.pop("", frozenset())
        assert len(loose) <= CHUNKS
        for document, chunks in contents.items():
            for name in chunks:
                (hit, *_) = await index.search(
                    TENANT, vector(name), document_ids=[document], limit=1
                )
                assert (hit.chunk.id, hit.chunk.text) == (name, f"text of {name}")
                assert abs(hit.score - 1) < 1e-5
    return contents


async def _for_ever(folder: Path) -> None:
    async with LocalVectorIndex.open(folder, embedder=EMBEDDER, dimension=DIMENSION) as index:
        for number, step in enumerate(steps(), start=1):
            await do(index, step)
            print(number, flush=True)  # noqa: T201 - whoever kills it must know


if __name__ == "__main__":
    asyncio.run(_for_ever(Path(sys.argv[1])))
