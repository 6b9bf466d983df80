"""Embeddings without a network: the word vectors and the tokenizer of the wordllama package.

Only the package's model files are read. Its own loader asks the network, so it is not imported.
"""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from services.retrieval.errors import EmbedderUnavailable
from services.retrieval.ports import Vectors

PACKAGE = "wordllama"
NAME = "wordllama-l2-supercat-256"
DIMENSION = 256
BATCH = 64
"""Texts embedded at a time: about 20 ms, the longest that a query waits behind a document."""


class WordllamaEmbedder:
    """Averages a text's word vectors: fast, rough, and the same everywhere."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        """Begin to load the model in the executor; `open` makes and ends one."""
        self._executor = executor
        self._model = executor.submit(_Model.load)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        """Embed during the block. Returns at once: the first call waits for the model."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder")
        try:
            yield cls(executor)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    @property
    def name(self) -> str:
        """The model, precisely: vectors of one name may be compared."""
        return NAME

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return DIMENSION

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """Return the texts' vectors, [len(texts), 256]; EmbedderUnavailable without the package."""
        # Shielded: a caller who gives up must not cancel the loading for all others.
        model = await asyncio.shield(asyncio.wrap_future(self._model))
        loop = asyncio.get_running_loop()
        parts = [np.empty((0, DIMENSION), np.float32)]
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            parts.append(await loop.run_in_executor(self._executor, model.embed, batch))
        return np.concatenate(parts)


class _Model:
    """The word vectors, [words, 256], and the tokenizer that numbers the words."""

    def __init__(self, words: np.ndarray[Any, np.dtype[np.float32]], tokenizer: Tokenizer) -> None:
        self._words = words
        self._tokenizer = tokenizer

    @classmethod
    def load(cls) -> Self:
        folder = _package_folder()
        try:
            rules = (folder / "tokenizers" / "l2_supercat_tokenizer_config.json").read_text("utf-8")
            weights = load_file(folder / "weights" / "l2_supercat_256.safetensors")
        except (OSError, SafetensorError) as error:
            raise EmbedderUnavailable(f"the files of {PACKAGE} cannot be read: {error}") from error
        # In half precision every lookup would convert again.
        words = weights["embedding.weight"].astype(np.float32)
        tokenizer = Tokenizer.from_str(rules)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(words, tokenizer)

    def embed(self, texts: list[str]) -> Vectors:
        """Return the mean of each text's word vectors, at length 1, [len(texts), 256]."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        for row, encoding in enumerate(encodings):
            self._words[encoding.ids].sum(axis=0, out=vectors[row])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        # An empty text has no direction: it stays zero, and so is near to nothing.
        vectors /= np.where(lengths > 0, lengths, 1)
        return vectors


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbedderUnavailable(f"the package {PACKAGE} is not installed")
    return Path(spec.origin).parent
