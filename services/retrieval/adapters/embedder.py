"""Which adapter an embedder's URL names."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from services.retrieval.adapters.wordllama import WordllamaEmbedder
from services.retrieval.errors import BadEmbedderUrl
from services.retrieval.ports import Embedder
from services.retrieval.query_cache import CachingEmbedder
from services.retrieval.settings import PineconeOptions


@asynccontextmanager
async def open_embedder(
    url: str, pinecone: PineconeOptions, *, cache_bytes: int
) -> AsyncIterator[Embedder]:
    """Open the embedder at *url*, with a cache of queries.

    wordllama:// is in this process, onnx:///path a folder with a sentence transformer, and
    pinecone://model or pinecone://model/dimension a model of Pinecone's. Raises BadEmbedderUrl for
    any other URL.
    """
    async with _opened(url, pinecone) as embedder:
        yield CachingEmbedder(embedder, most_bytes=cache_bytes)


def _opened(url: str, pinecone: PineconeOptions) -> AbstractAsyncContextManager[Embedder]:
    scheme, _, rest = url.partition("://")
    if scheme == "wordllama" and not rest:
        return WordllamaEmbedder.open()
    if scheme == "onnx" and rest.strip("/"):
        return _onnx(Path("/" + rest.lstrip("/")))
    if scheme == "pinecone" and rest:
        return _pinecone(rest, pinecone)
    raise BadEmbedderUrl(
        f"{url!r} names no embedder: use wordllama://, onnx:///path or pinecone://model"
    )


def _onnx(folder: Path) -> AbstractAsyncContextManager[Embedder]:
    try:
        # Imported here because it is an extra, and costs memory.
        from services.retrieval.adapters.onnx import OnnxEmbedder  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise BadEmbedderUrl("onnx:// needs the package onnxruntime: install it") from error
    return OnnxEmbedder.open(folder)


def _pinecone(rest: str, options: PineconeOptions) -> AbstractAsyncContextManager[Embedder]:
    if not options.api_key:
        raise BadEmbedderUrl(f"pinecone://{rest} needs a key: set MAIEUTIC_PINECONE_API_KEY")
    # Imported here because the SDK costs memory and time that others do not need.
    from services.retrieval.adapters.pinecone_inference import (  # noqa: PLC0415
        DIMENSIONS,
        PineconeEmbedder,
    )

    model, _, digits = rest.partition("/")
    dimension = int(digits) if digits.isdecimal() else DIMENSIONS.get(model, 0)
    if not dimension:
        raise BadEmbedderUrl(f"pinecone://{rest} says no dimension: add it, as in pinecone://m/768")
    return PineconeEmbedder.open(model, options, dimension=dimension)
