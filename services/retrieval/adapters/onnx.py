"""Embeddings without a network by a sentence transformer, as all-MiniLM-L6-v2, in ONNX.

Better than word vectors and a hundred times as slow: for machines with processors to spare. The
model is a folder with `model.onnx` and `tokenizer.json`, both as sentence-transformers exports
them; its outputs are averaged over the words of a text.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from services.retrieval.errors import BadEmbedderUrl
from services.retrieval.ports import Vectors

MOST_TOKENS = 256
"""All that the MiniLM models were trained on; a chunk has fewer."""
NAME_DIGITS = 12
BATCH = 8
"""Texts for which a query may have to wait: about 300 ms."""


class OnnxEmbedder:
    """Embeds in one thread."""

    def __init__(self, model: "_Model", executor: ThreadPoolExecutor) -> None:
        self._model = model
        self._executor = executor

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        """Embed during the block; raises BadEmbedderUrl unless the folder holds a model."""
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder")
        try:
            loaded = asyncio.get_running_loop().run_in_executor(executor, _Model.load, folder)
            yield cls(await loaded, executor)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    @property
    def name(self) -> str:
        """The model, precisely: vectors of one name may be compared."""
        return self._model.name

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return self._model.dimension

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """Return the texts' vectors, [len(texts), dimension]."""
        loop = asyncio.get_running_loop()
        parts = [np.empty((0, self.dimension), np.float32)]
        for start in range(0, len(texts), BATCH):
            some = list(texts[start : start + BATCH])
            parts.append(await loop.run_in_executor(self._executor, self._model.embed, some))
        return np.concatenate(parts)


class _Model:
    """A session of the ONNX runtime, and the tokenizer that goes with it."""

    def __init__(self, name: str, session: Any, tokenizer: Tokenizer) -> None:
        self.name = name
        self._session = session
        self._tokenizer = tokenizer
        self._inputs = frozenset(one.name for one in session.get_inputs())
        self.dimension = len(self.embed(["how long is a vector?"])[0])

    @classmethod
    def load(cls, folder: Path) -> Self:
        model, rules = folder / "model.onnx", folder / "tokenizer.json"
        options = onnxruntime.SessionOptions()
        # One core: the others belong to the rest of the service.
        options.intra_op_num_threads = 1
        try:
            with model.open("rb") as file:
                digest = file_digest(file, "sha256").hexdigest()
            tokenizer = Tokenizer.from_str(rules.read_text("utf-8"))
            session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the tokenizer raises nothing narrower
            raise BadEmbedderUrl(f"{folder} holds no ONNX model and tokenizer: {error}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(MOST_TOKENS)
        return cls(f"onnx-{digest[:NAME_DIGITS]}", session, tokenizer)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the texts' vectors, each of length 1."""
        # One by one: filled up to a common length, a text would depend on the others of its batch.
        return np.stack([self._embed(text) for text in texts])

    def _embed(self, text: str) -> Vectors:
        words = np.array([self._tokenizer.encode(text).ids], np.int64)
        given = {
            "input_ids": words,
            "attention_mask": np.ones_like(words),
            "token_type_ids": np.zeros_like(words),
        }
        wanted = {name: value for name, value in given.items() if name in self._inputs}
        vector: Vectors = self._session.run(None, wanted)[0][0].mean(axis=0)
        return vector / np.linalg.norm(vector)
