"""Users who chat over the same documents cost little more than one of them."""

from pathlib import Path

from tests.retrieval.corpus import descriptions
from tests.retrieval.crowd import cost_of
from tests.retrieval.running import CountingEmbedder


async def test_a_crowd_embeds_each_chunk_once_and_stores_each_document_once(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    texts = descriptions(4)
    alone = await cost_of(tmp_path / "alone", embedder, texts, users=1, chats=1)
    crowd = await cost_of(tmp_path / "crowd", embedder, texts, users=10, chats=3)
    assert crowd.found == 30
    assert crowd.embedded == crowd.distinct == alone.embedded
    # Of what a copy for each chat would take, 1/30 is the least; besides, each user is noted.
    assert crowd.bytes < 2 * alone.bytes
