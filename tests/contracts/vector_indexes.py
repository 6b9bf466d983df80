"""What the contract suite of the vector index needs from each adapter."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.adapters.pinecone import PineconeVectorIndex
from services.retrieval.ports import VectorIndex
from services.retrieval.settings import PineconeOptions
from tests.emulators.pinecone import pinecone_emulator

DIMENSION = 8
EMBEDDER = "contract-8"

OpenIndex = Callable[[], AbstractAsyncContextManager[VectorIndex]]
"""Opens the same index each time: what one had stored, the next one has."""


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[OpenIndex]:
    """An index in a folder of its own."""
    yield lambda: LocalVectorIndex.open(folder, embedder=EMBEDDER, dimension=DIMENSION)


@asynccontextmanager
async def pinecone(folder: Path) -> AsyncIterator[OpenIndex]:
    """An index at an emulator, over TLS."""
    async with pinecone_emulator(tls=folder) as emulator:
        options = PineconeOptions(
            api_key="a key",
            control_host=emulator.url,
            ca_file=emulator.authority,
        )
        yield lambda: PineconeVectorIndex.open(
            "contract", options, embedder=EMBEDDER, dimension=DIMENSION
        )


ADAPTERS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[OpenIndex]]] = MappingProxyType(
    {"local": local, "pinecone": pinecone}
)
"""By name: what makes an empty index; the folder is for those that keep files."""
