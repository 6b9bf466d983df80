"""What the contract suite of the vector index needs from each adapter."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.ports import VectorIndex

DIMENSION = 8
EMBEDDER = "contract-8"

OpenIndex = Callable[[], AbstractAsyncContextManager[VectorIndex]]
"""Opens the same index each time: what one had stored, the next one has."""


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[OpenIndex]:
    """An index in a folder of its own."""
    yield lambda: LocalVectorIndex.open(folder, embedder=EMBEDDER, dimension=DIMENSION)


ADAPTERS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[OpenIndex]]] = MappingProxyType(
    {"local": local}
)
"""By name: what makes an empty index; the folder is for those that keep files."""
