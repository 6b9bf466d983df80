"""Embeddings by Pinecone's models, over the network."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

import numpy as np
from pinecone import AsyncPinecone

from services.retrieval.adapters.pinecone import open_client, trusting
from services.retrieval.adapters.pinecone_calls import Calls
from services.retrieval.errors import (
    EmbedderUnavailable,
    IndexDamaged,
    IndexRefused,
    IndexTooSlow,
    IndexUnavailable,
)
from services.retrieval.ports import Vectors
from services.retrieval.settings import PineconeOptions
from services.runtime import deadline

DIMENSIONS: Mapping[str, int] = {"multilingual-e5-large": 1024, "llama-text-embed-v2": 1024}
TEXTS_AT_A_TIME = 96
CHARACTERS_A_TOKEN = 4
"""About, in European languages; the models' own count comes with the answer."""
SECONDS_A_MINUTE = 60.0


class PineconeEmbedder:
    """Embeds by one model of Pinecone's, no faster than its limit of tokens."""

    def __init__(
        self, model: str, dimension: int, calls: Calls[AsyncPinecone], pace: "Pace"
    ) -> None:
        self._model = model
        self._dimension = dimension
        self._calls = calls
        self._pace = pace

    @classmethod
    @asynccontextmanager
    async def open(
        cls, model: str, options: PineconeOptions, *, dimension: int
    ) -> AsyncIterator[Self]:
        """Embed during the block; Pinecone is asked when there is something to embed."""
        opening = partial(open_client, options, trusting(options.ca_file))
        calls = Calls(options.control_host, options, opening)
        try:
            yield cls(model, dimension, calls, Pace(options.tokens_a_minute))
        finally:
            await calls.closed()

    @property
    def name(self) -> str:
        """The model, precisely: vectors of one name may be compared."""
        return f"{self._model}-{self._dimension}"

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return self._dimension

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """Return the texts' vectors, [len(texts), dimension]; EmbedderUnavailable while it is."""
        kind = "query" if query else "passage"
        starts = range(0, len(texts), TEXTS_AT_A_TIME)
        some = [list(texts[start : start + TEXTS_AT_A_TIME]) for start in starts]
        none = np.empty((0, self._dimension), np.float32)
        return np.concatenate([none, *[await self._embedded(one, kind) for one in some]])

    async def _embedded(self, texts: list[str], kind: str) -> Vectors:
        await self._turn(sum(map(len, texts)) // CHARACTERS_A_TOKEN + len(texts))
        work = partial(_embeddings, self._model, texts, kind, self._dimension)
        try:
            vectors = await self._calls.run("embed", work)
        except (IndexUnavailable, IndexTooSlow) as error:
            message = "Pinecone does not embed texts now"
            raise EmbedderUnavailable(message, retry_after=1.0) from error
        except (IndexDamaged, IndexRefused) as error:
            message = f"Pinecone does not embed by {self._model!r}: check the model and the key"
            raise IndexRefused(message) from error
        if vectors.shape != (len(texts), self._dimension):
            raise EmbedderUnavailable(
                f"{self._model} makes vectors of shape {vectors.shape}, "
                f"not of dimension {self._dimension}: name it in the embedder's URL"
            )
        return vectors

    async def _turn(self, tokens: int) -> None:
        wait = self._pace.wait_for(tokens)
        left = deadline.remaining()
        if left is not None and wait > left:
            self._pace.give_back(tokens)
            raise EmbedderUnavailable("too many texts wait to be embedded", retry_after=wait)
        await asyncio.sleep(wait)


class Pace:
    """Spends a limit of tokens a minute evenly, after a burst of a sixth of it."""

    def __init__(
        self, tokens_a_minute: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow that many; 0 is no limit."""
        self._per_second = tokens_a_minute / SECONDS_A_MINUTE
        self._burst = tokens_a_minute / 6
        self._clock = clock
        self._paid_until = clock()

    def wait_for(self, tokens: int) -> float:
        """Spend the tokens, and return the seconds to wait before."""
        if not self._per_second:
            return 0.0
        now = self._clock()
        earliest = now - self._burst / self._per_second
        self._paid_until = max(self._paid_until, earliest) + tokens / self._per_second
        return max(0.0, self._paid_until - now)

    def give_back(self, tokens: int) -> None:
        """Take back what is not spent after all."""
        if self._per_second:
            self._paid_until -= tokens / self._per_second


async def _embeddings(
    model: str, texts: list[str], kind: str, dimension: int, client: AsyncPinecone
) -> Vectors:
    parameters: dict[str, str | int] = {"input_type": kind, "truncate": "END"}
    if DIMENSIONS.get(model) != dimension:
        # Only some of the models know this one.
        parameters["dimension"] = dimension
    answer = await client.inference.embed(model=model, inputs=texts, parameters=parameters)
    vectors = np.array([one.values for one in answer.data], np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
