"""How hits become an answer."""

import numpy as np
from hypothesis import given, strategies as st

from services.retrieval.model import Chunk
from services.retrieval.ports import Hit
from services.retrieval.ranking import diverse, fused


def hits_of(*texts: str) -> list[Hit]:
    """Return hits in the order of their nearness."""
    return [
        Hit(document_id="d", position=n, chunk=Chunk(id=str(n), text=text), score=1 - n / 100)
        for n, text in enumerate(texts)
    ]


def texts_of(query: str, *texts: str) -> list[str]:
    return [hit.chunk.text for hit in fused(query, hits_of(*texts))]


def test_the_only_hit_that_has_a_word_of_the_query_is_first() -> None:
    assert texts_of("what of 8080?", "it is open", "it is shut", "it is 8080")[0] == "it is 8080"


def test_without_a_word_in_common_the_nearest_stays_first() -> None:
    texts = ["one", "two", "three"]
    assert texts_of("nothing of it", *texts) == texts


def test_a_word_that_every_hit_has_weighs_less_than_a_rare_one() -> None:
    texts = ["redis and pools", "redis redis redis", "redis sentinel finds its master"]
    assert texts_of("redis sentinel", *texts).index(texts[2]) == 1


def test_words_are_the_same_in_capitals_and_in_any_script() -> None:
    assert texts_of("ГОРОД", "море", "город")[0] == "город"
    assert texts_of("straße", "weg", "STRASSE")[0] == "STRASSE"


@given(st.text(max_size=50), st.lists(st.text(max_size=50), max_size=20))
def test_no_hit_is_lost_or_added(query: str, texts: list[str]) -> None:
    assert sorted(texts_of(query, *texts)) == sorted(texts)


def test_relevance_alone_keeps_the_order() -> None:
    vectors = np.eye(5, dtype=np.float32)
    assert diverse(vectors, mmr_lambda=1, limit=3) == [0, 1, 2]


def test_what_repeats_a_choice_comes_after_what_differs() -> None:
    one, other = [1, 0], [0, 1]
    vectors = np.array([one, one, one, other], np.float32)
    assert diverse(vectors, mmr_lambda=0.4, limit=4)[:2] == [0, 3]


@given(st.integers(0, 12), st.integers(0, 12), st.floats(0, 1))
def test_each_place_is_chosen_once_and_no_more_than_asked(
    count: int, limit: int, mmr_lambda: float
) -> None:
    vectors = np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)
    chosen = diverse(vectors, mmr_lambda=mmr_lambda, limit=limit)
    assert len(set(chosen)) == len(chosen) == min(limit, count)
    assert set(chosen) <= set(range(count))
