"""What is found of what is known to be there: the figures of docs/retrieval.md."""

from bench.retrieval.quality import Collection, by_embedder, by_words
from services.retrieval.adapters.wordllama import WordllamaEmbedder


def test_every_label_is_a_passage_of_its_document_as_it_is_installed() -> None:
    collection = Collection()
    assert len(collection.questions) >= 60
    assert len({one.question for one in collection.questions}) == len(collection.questions)
    assert not collection.stale()


async def test_the_default_finds_what_it_is_said_to_find(wordllama: WordllamaEmbedder) -> None:
    """By vectors and words together, more than by either."""
    collection = Collection()
    vectors, both = await by_embedder(collection, "wordllama", wordllama)
    words = by_words(collection)
    assert both.quality.recall(5) >= 0.8
    assert both.quality.recall(5) > max(vectors.quality.recall(5), words.quality.recall(5))
    assert both.quality.mrr > max(vectors.quality.mrr, words.quality.mrr)
