"""The embedders that may stand in for the word vectors, and the cache before them all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from services.retrieval.adapters.embedder import open_embedder
from services.retrieval.adapters.pinecone_inference import Pace
from services.retrieval.errors import BadEmbedderUrl, EmbedderUnavailable, IndexRefused
from services.retrieval.ports import Embedder
from services.retrieval.query_cache import ENTRY_BYTES, CachingEmbedder
from services.retrieval.settings import PineconeOptions
from services.runtime import deadline
from tests.emulators.pinecone import Emulator, pinecone_emulator
from tests.emulators.pinecone_plan import Rule
from tests.retrieval.minilm import minilm
from tests.retrieval.running import CountingEmbedder, running_retrieval

CACHE = 2**20
TEXTS = [f"passage {number} of many" for number in range(200)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def onnx(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Embedder]:
    folder = minilm(tmp_path_factory.mktemp("models") / "minilm")
    async with open_embedder(f"onnx://{folder}", PineconeOptions(), cache_bytes=CACHE) as opened:
        yield opened


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with pinecone_emulator() as running:
        yield running


def options(emulator: Emulator, **others: float) -> PineconeOptions:
    return PineconeOptions(
        api_key="a key",
        control_host=emulator.url,
        backoff=0.005,
        **others,  # type: ignore[arg-type]
    )


@pytest_asyncio.fixture
async def pinecone(emulator: Emulator) -> AsyncIterator[Embedder]:
    url = "pinecone://multilingual-e5-large"
    async with open_embedder(url, options(emulator), cache_bytes=CACHE) as opened:
        yield opened


async def test_a_sentence_transformer_knows_what_texts_are_about(onnx: Embedder) -> None:
    question, answer, other = await onnx.embed(
        ["Which animals bark?", "Dogs are loud.", "The stock market fell on Monday."]
    )
    assert question @ answer > question @ other + 0.2
    assert onnx.dimension == len(question) == 384


async def test_a_text_has_one_vector_at_length_1_whatever_is_embedded_beside_it(
    onnx: Embedder,
) -> None:
    texts = ["short", "a text of some more words " * 30, "", "x" * 5000]
    together = await onnx.embed(texts)
    alone = np.concatenate([await onnx.embed([text]) for text in texts])
    assert np.array_equal(together, alone)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


async def test_a_folder_without_a_model_and_urls_of_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    (tmp_path / "tokenizer.json").write_text("{}")
    bad = (f"onnx://{tmp_path}", "onnx:///nowhere", "onnx://", "wordllama://x", "bert", "")
    for url in (*bad, "pinecone://", "pinecone://a-model-of-no-known-dimension"):
        with pytest.raises(BadEmbedderUrl):
            async with open_embedder(url, PineconeOptions(api_key="a"), cache_bytes=CACHE):
                pass
    with pytest.raises(BadEmbedderUrl, match="key"):
        async with open_embedder(
            "pinecone://llama-text-embed-v2", PineconeOptions(), cache_bytes=1
        ):
            pass


async def test_texts_go_to_pinecone_in_batches_and_come_back_in_their_order(
    pinecone: Embedder, emulator: Emulator
) -> None:
    vectors = await pinecone.embed(TEXTS)
    assert emulator.count("/embed") == 3
    assert vectors.shape == (200, 1024)
    alone = await pinecone.embed([TEXTS[150]])
    assert np.allclose(vectors[150], alone[0], atol=1e-6)
    assert (await pinecone.embed([])).shape == (0, 1024)


async def test_pinecone_is_told_what_is_searched_for_and_what_is_to_be_found(
    pinecone: Embedder,
) -> None:
    ((query,), (passage,)) = (
        await pinecone.embed(["the sea"], query=True),
        await pinecone.embed(["the sea"]),
    )
    assert not np.allclose(query, passage)


async def test_embedding_survives_resets_lost_answers_and_throttling(
    pinecone: Embedder, emulator: Emulator
) -> None:
    calm = await pinecone.embed(TEXTS)
    emulator.follow(
        [
            Rule(path="/embed", fault="reset", share=0.3, seed=1),
            Rule(path="/embed", fault="lose", share=0.3, seed=2),
            Rule(path="/embed", fault="status", status=429, retry_after=0.01, times=2),
        ]
    )
    assert np.allclose(await pinecone.embed(TEXTS), calm)
    assert emulator.count("/embed") > 3


async def test_while_pinecone_is_away_texts_cannot_be_embedded_and_a_wrong_model_is_refused(
    pinecone: Embedder, emulator: Emulator
) -> None:
    emulator.follow([Rule(path="/embed", fault="status", status=503)])
    with pytest.raises(EmbedderUnavailable):
        await pinecone.embed(["one"])
    emulator.follow([])
    assert len(await pinecone.embed(["one"])) == 1
    unknown = open_embedder("pinecone://no-model/8", options(emulator), cache_bytes=CACHE)
    async with unknown as wrong:
        with pytest.raises(IndexRefused, match="no-model"):
            await wrong.embed(["one"])


async def test_a_caller_who_leaves_closes_the_connection(
    pinecone: Embedder, emulator: Emulator
) -> None:
    emulator.follow([Rule(path="/embed", delay=30)])
    leaving = asyncio.create_task(pinecone.embed(["one"]))
    async with asyncio.timeout(10):
        while not emulator.waiting:
            await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.wait([leaving])
        while emulator.waiting or emulator.connections():
            await asyncio.sleep(0.01)
    assert leaving.cancelled()


def test_tokens_are_spent_at_their_pace_after_a_burst() -> None:
    now = [100.0]
    pace = Pace(600, clock=lambda: now[0])
    assert pace.wait_for(1) == pytest.approx(0.1)
    now[0] = 200
    assert pace.wait_for(100) == 0
    assert pace.wait_for(50) == pytest.approx(5)
    pace.give_back(50)
    assert pace.wait_for(10) == pytest.approx(1)
    assert Pace(0).wait_for(10**9) == 0


async def test_who_has_no_time_for_the_pace_is_told_when_to_come_back(emulator: Emulator) -> None:
    slow = options(emulator, tokens_a_minute=60)
    url = "pinecone://multilingual-e5-large"
    async with open_embedder(url, slow, cache_bytes=CACHE) as embedder:
        with deadline.within(1), pytest.raises(EmbedderUnavailable) as refused:
            await embedder.embed(["many words " * 100])
        assert refused.value.retry_after
        assert refused.value.retry_after > 60
    assert not emulator.count("/embed")


async def test_a_query_is_embedded_once_and_passages_each_time(wordllama: Embedder) -> None:
    counting = CountingEmbedder(wordllama)
    cached = CachingEmbedder(counting, most_bytes=CACHE)
    first = await cached.embed(["a", "b", "a"], query=True)
    assert counting.texts == ["a", "b"]
    again = await cached.embed(["b", "c", "a"], query=True)
    assert counting.texts == ["a", "b", "c"]
    assert np.array_equal(first[[0, 1]], again[[2, 0]])
    await cached.embed(["a"])
    assert counting.texts[-1] == "a"


async def test_the_cache_keeps_the_last_queries_that_fit_its_bytes(wordllama: Embedder) -> None:
    counting = CountingEmbedder(wordllama)
    room = 2 * (4 * wordllama.dimension + ENTRY_BYTES)
    cached = CachingEmbedder(counting, most_bytes=room)
    for text in ("a", "b", "a", "c", "a", "b"):
        await cached.embed([text], query=True)
    assert counting.texts == ["a", "b", "c", "b"]
    none = CachingEmbedder(counting, most_bytes=0)
    assert (await none.embed(["a", "b"], query=True)).shape == (2, wordllama.dimension)


async def test_documents_are_added_and_found_by_pinecones_embedder(
    tmp_path: Path, pinecone: Embedder, emulator: Emulator
) -> None:
    async with running_retrieval(tmp_path, embedder=pinecone) as retrieval:
        user = retrieval.user()
        for text in ("The sea is deep and blue.", "Mountains are high."):
            await user.add(text)
        emulator.follow([])
        for _ in range(3):
            passages = await user.search("How deep is the sea?", limit=1)
            assert passages[0].text == "The sea is deep and blue."
        assert emulator.count("/embed") == 1
