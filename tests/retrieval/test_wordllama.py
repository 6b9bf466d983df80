"""The offline embedder."""

import asyncio

import numpy as np

from services.retrieval.adapters.wordllama import WordllamaEmbedder
from tests.retrieval.corpus import descriptions


async def test_vectors_are_unit_vectors_one_per_text(wordllama: WordllamaEmbedder) -> None:
    texts = list(descriptions(10).values())
    vectors = await wordllama.embed(texts)
    assert vectors.shape == (len(texts), wordllama.dimension)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (await wordllama.embed([])).shape == (0, wordllama.dimension)


async def test_a_texts_vector_does_not_depend_on_its_company(wordllama: WordllamaEmbedder) -> None:
    texts = [text[:500] for text in descriptions(100).values()]
    together = await wordllama.embed(texts)
    (alone,) = await wordllama.embed([texts[70 % len(texts)]])
    assert np.array_equal(alone, together[70 % len(texts)])


async def test_what_means_the_same_is_nearer_than_what_does_not(
    wordllama: WordllamaEmbedder,
) -> None:
    question, answer, other = await wordllama.embed(
        [
            "How do I connect to the database?",
            "Open a connection to the PostgreSQL server.",
            "The cat sleeps on the warm windowsill.",
        ]
    )
    assert question @ answer > question @ other


async def test_a_text_without_words_is_near_to_nothing(wordllama: WordllamaEmbedder) -> None:
    (empty,) = await wordllama.embed([""])
    assert not empty.any()


async def test_a_caller_who_leaves_during_the_load_leaves_it_to_the_others() -> None:
    async with WordllamaEmbedder.open() as embedder:
        leaving = asyncio.create_task(embedder.embed(["one"]))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await embedder.embed(["two"])).shape == (1, embedder.dimension)


async def test_the_loop_goes_on_while_texts_are_embedded(wordllama: WordllamaEmbedder) -> None:
    texts = [text[:1000] for text in descriptions(50).values()] * 10
    embedding, rounds = asyncio.create_task(wordllama.embed(texts)), 0
    while not embedding.done():
        await asyncio.sleep(0)
        rounds += 1
    await embedding
    assert rounds > 10
