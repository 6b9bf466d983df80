"""Which adapter an index URL names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.errors import BadIndexUrl
from services.retrieval.ports import Embedder, VectorIndex
from services.retrieval.settings import PineconeOptions


@asynccontextmanager
async def open_index(
    url: str, embedder: Embedder, pinecone: PineconeOptions
) -> AsyncIterator[VectorIndex]:
    """Open the index at *url* for the vectors of that embedder.

    local:///path is a folder, pinecone://name an index at Pinecone. Raises BadIndexUrl for any
    other URL, and what the adapter raises.
    """
    scheme, _, path = url.partition("://")
    if scheme == "local" and path.strip("/"):
        # Of an absolute path behind local:/// one slash more remains: both forms mean the same.
        opened = _local(Path("/" + path.lstrip("/")), embedder)
    elif scheme == "pinecone" and path:
        opened = _pinecone(path, pinecone, embedder)
    else:
        message = f"{url!r} names no vector index: use local:///path or pinecone://name"
        raise BadIndexUrl(message)
    async with opened as index:
        yield index


@asynccontextmanager
async def _local(folder: Path, embedder: Embedder) -> AsyncIterator[VectorIndex]:
    name, dimension = embedder.name, embedder.dimension
    async with LocalVectorIndex.open(folder, embedder=name, dimension=dimension) as index:
        yield index


@asynccontextmanager
async def _pinecone(
    name: str, options: PineconeOptions, embedder: Embedder
) -> AsyncIterator[VectorIndex]:
    if not options.api_key:
        raise BadIndexUrl(f"pinecone://{name} needs a key: set MAIEUTIC_PINECONE_API_KEY")
    # Imported here because the SDK costs memory and time that a local index does not need.
    from services.retrieval.adapters.pinecone import PineconeVectorIndex  # noqa: PLC0415

    async with PineconeVectorIndex.open(
        name, options, embedder=embedder.name, dimension=embedder.dimension
    ) as index:
        yield index
