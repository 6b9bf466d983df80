"""The vectors of queries that were asked before: a search by an embedder far away is then near."""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from services.retrieval.ports import Embedder, Vectors
from services.runtime.names import EMBEDDER_CACHE, EMBEDDER_CACHE_OUTCOME
from services.runtime.telemetry import current

ENTRY_BYTES = 300
"""What an entry takes besides its vector."""


class CachingEmbedder:
    """Another embedder, with the vectors of queries kept; those not asked for longest go first.

    Passages are not kept: each is embedded once as it is.
    """

    def __init__(self, inner: Embedder, *, most_bytes: int) -> None:
        self._inner = inner
        self._kept: OrderedDict[bytes, Vectors] = OrderedDict()
        self._most = most_bytes // (4 * inner.dimension + ENTRY_BYTES)

    @property
    def name(self) -> str:
        """The model, precisely: vectors of one name may be compared."""
        return self._inner.name

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return self._inner.dimension

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """Return the texts' vectors, [len(texts), dimension]; raises EmbedderUnavailable."""
        if not (query and texts):
            return await self._inner.embed(texts)
        # Of a query only its digest is kept.
        keys = [sha256(text.encode()).digest() for text in texts]
        known = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if new:
            vectors = await self._inner.embed(list(new.values()), query=True)
            known |= zip(new, vectors, strict=True)
        self._keep(known)
        counter = current().counter(EMBEDDER_CACHE)
        counter.add(len(new), {EMBEDDER_CACHE_OUTCOME: "miss"})
        counter.add(len(texts) - len(new), {EMBEDDER_CACHE_OUTCOME: "hit"})
        return np.stack([known[key] for key in keys])

    def _keep(self, used: dict[bytes, Vectors]) -> None:
        for key, vector in used.items():
            # A row of a larger answer would keep all of it.
            self._kept[key] = vector if key in self._kept else vector.copy()
            self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
