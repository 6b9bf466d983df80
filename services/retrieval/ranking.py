"""Which of the hits that an index found are the answer. Pure.

Vectors know what a text is about and blur the words themselves; a name or a number is found by its
word. So hits are ordered by both. Measured on labelled questions, this finds more than either
(docs/retrieval.md).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np

from maieutic.v1.document_service_pb2 import DocumentFilter
from services.retrieval.ports import Hit, Vectors

WORD = re.compile(r"\w+")
SATURATION, LENGTH_SHARE = 1.5, 0.75
"""BM25's k1 and b, at their usual values."""
RANK_OFFSET = 60
"""Of reciprocal rank fusion, at its usual value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is searched for."""

    query: str
    document_ids: Sequence[str] = ()
    """None for all of the owner's."""
    limit: int = 5
    fetch: int = 20
    """Hits nearest in meaning among which the answer is chosen."""
    minimum_score: float = -1.0
    """Least cosine similarity."""
    mmr_lambda: float = 1.0
    """Weight of relevance against difference from what was chosen before, 0 to 1."""
    filter: DocumentFilter = field(default_factory=DocumentFilter)
    """Which of the documents; an empty one admits all."""


def fused(query: str, hits: Sequence[Hit]) -> list[Hit]:
    """Order hits, given nearest first, by their nearness and by the query's words in them."""
    scores = word_scores(query, [hit.chunk.text for hit in hits])
    by_words = sorted(range(len(hits)), key=lambda place: -scores[place])
    ranks = {place: rank for rank, place in enumerate(by_words)}

    def value(place: int) -> float:
        words = 1 / (RANK_OFFSET + ranks[place]) if scores[place] else 0.0
        return 1 / (RANK_OFFSET + place) + words

    return [hits[place] for place in sorted(range(len(hits)), key=value, reverse=True)]


def word_scores(query: str, texts: Sequence[str]) -> list[float]:
    """Return BM25 of each text, with these texts as the whole collection."""
    wanted = set(_words(query))
    words = [_words(text) for text in texts]
    counts = [Counter(word for word in some if word in wanted) for some in words]
    spread = Counter(word for count in counts for word in count)
    mean = sum(map(len, words)) / max(1, len(words)) or 1
    rarity = {
        word: log(1 + (len(texts) - many + 0.5) / (many + 0.5)) for word, many in spread.items()
    }
    return [
        sum(rarity[word] * _saturated(many, len(some) / mean) for word, many in count.items())
        for count, some in zip(counts, words, strict=True)
    ]


def diverse(vectors: Vectors, *, mmr_lambda: float, limit: int) -> list[int]:
    """Choose at most *limit* of hits, given best first with their vectors, [hits, dimension].

    Maximal marginal relevance: each choice is relevant, by its rank, and unlike those before it.
    Returns their places.
    """
    relevance = 1 - np.arange(len(vectors)) / max(1, len(vectors))
    alike = vectors @ vectors.T
    chosen: list[int] = []
    nearest = np.zeros(len(vectors))
    left = np.ones(len(vectors), np.bool_)
    while len(chosen) < min(limit, len(vectors)):
        value = mmr_lambda * relevance - (1 - mmr_lambda) * nearest
        best = int(np.argmax(np.where(left, value, -np.inf)))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, alike[best])
    return chosen


def _saturated(count: int, length: float) -> float:
    """Return what a word that comes *count* times adds; *length* is 1 for a text of mean length."""
    long = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * length)
    return count * (SATURATION + 1) / (count + long)


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())
