"""Which adapter an index URL names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.errors import BadIndexUrl
from services.retrieval.ports import Embedder, VectorIndex


@asynccontextmanager
async def open_index(url: str, embedder: Embedder) -> AsyncIterator[VectorIndex]:
    """Open the index at *url* for the vectors of that embedder.

    local:///path is a folder. Raises BadIndexUrl for any other URL, and what the adapter raises.
    """
    scheme, _, path = url.partition("://")
    if scheme != "local" or not path.strip("/"):
        raise BadIndexUrl(f"{url!r} names no vector index: use local:///path")
    # Of an absolute path behind local:/// one slash more remains: both forms mean the same.
    folder = Path("/" + path.lstrip("/"))
    name, dimension = embedder.name, embedder.dimension
    async with LocalVectorIndex.open(folder, embedder=name, dimension=dimension) as index:
        yield index
