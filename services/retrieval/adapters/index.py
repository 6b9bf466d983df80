"""Which adapter an index URL names."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.errors import BadIndexUrl
from services.retrieval.ports import Embedder, VectorIndex
from services.retrieval.settings import PineconeOptions


@asynccontextmanager
async def open_index(
    url: str, embedder: Embedder, pinecone: PineconeOptions, *, space: str = ""
) -> AsyncIterator[VectorIndex]:
    """Open the index at *url* for the vectors of that embedder.

    local:///path is a folder, pinecone://name an index at Pinecone. What is kept under another
    *space*, the embedder's name if empty, is an index apart. Raises BadIndexUrl for any other URL,
    and what the adapter raises.
    """
    scheme, path = checked_url(url, pinecone)
    space = space or embedder.name
    if scheme == "local":
        opened = _local(path, embedder, space)
    else:
        opened = _pinecone(path, pinecone, embedder, space)
    async with opened as index:
        yield index


def checked_url(url: str, pinecone: PineconeOptions) -> tuple[str, str]:
    """Return the scheme and the rest of the URL; raises BadIndexUrl."""
    scheme, _, path = url.partition("://")
    if not (scheme == "local" and path.strip("/")) and not (scheme == "pinecone" and path):
        message = f"{url!r} names no vector index: use local:///path or pinecone://name"
        raise BadIndexUrl(message)
    if scheme == "pinecone" and not pinecone.api_key:
        raise BadIndexUrl(f"pinecone://{path} needs a key: set MAIEUTIC_PINECONE_API_KEY")
    return scheme, path


def erase_index(url: str, space: str) -> None:
    """Remove what a closed, empty index leaves on this machine; nothing left is no error."""
    scheme, _, path = url.partition("://")
    if scheme == "local":
        database = _folder(path) / f"{space}.sqlite3"
        shutil.rmtree(database.with_suffix(".vectors"), ignore_errors=True)
        database.unlink(missing_ok=True)


def _folder(path: str) -> Path:
    # Of an absolute path behind local:/// one slash more remains: both forms mean the same.
    return Path("/" + path.lstrip("/"))


@asynccontextmanager
async def _local(path: str, embedder: Embedder, space: str) -> AsyncIterator[VectorIndex]:
    opening = LocalVectorIndex.open(_folder(path), embedder=space, dimension=embedder.dimension)
    async with opening as index:
        yield index


@asynccontextmanager
async def _pinecone(
    name: str, options: PineconeOptions, embedder: Embedder, space: str
) -> AsyncIterator[VectorIndex]:
    # Imported here because the SDK costs memory and time that a local index does not need.
    from services.retrieval.adapters.pinecone import PineconeVectorIndex  # noqa: PLC0415

    async with PineconeVectorIndex.open(
        name, options, embedder=space, dimension=embedder.dimension
    ) as index:
        yield index
