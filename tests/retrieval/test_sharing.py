"""Documents that share chunks, one added while the other is removed."""

from collections.abc import Sequence
from pathlib import Path

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.adapters.local import LocalVectorIndex
from tests.retrieval.running import CountingEmbedder, Retrieval, running_retrieval

SHARED = "What both documents say. " * 30
ONE = f"{SHARED}\n\nWhat only the first one says. " + "One. " * 100
TWO = f"{SHARED}\n\nWhat only the second one says. " + "Two. " * 100


class RemovingIndex(LocalVectorIndex):
    """Removes the given document just before a link, as another caller may."""

    document_id = ""
    times = 0

    async def link(self, namespace: str, document_id: str, chunk_ids: Sequence[str]) -> bool:
        if self.times:
            self.times -= 1
            await self.unlink(namespace, self.document_id)
            await self.unlink(namespace, document_id)
        return await super().link(namespace, document_id, chunk_ids)


async def first_added(retrieval: Retrieval, index: RemovingIndex) -> None:
    added = await retrieval.user().add(ONE)
    index.document_id = added.document.document_id


async def test_a_chunk_that_goes_with_another_document_is_embedded_again(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    opened = RemovingIndex.open(tmp_path, embedder=embedder.name, dimension=embedder.dimension)
    async with opened as index, running_retrieval(tmp_path, index=index, embedder=embedder) as run:
        await first_added(run, index)
        index.times = 1
        added = await run.user().add(TWO)
        assert added.document.state == pb.DOCUMENT_STATE_READY
        assert added.chunks_embedded == added.document.chunk_count
        passages = await run.user().search("what both say", limit=50)
    assert {one.document_id for one in passages} == {added.document.document_id}
    assert len(passages) == added.document.chunk_count


async def test_a_document_whose_chunks_keep_going_is_put_off_with_the_reason(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    class Restless(RemovingIndex):
        calm = False

        async def link(self, namespace: str, document_id: str, chunk_ids: Sequence[str]) -> bool:
            return self.calm and await super().link(namespace, document_id, chunk_ids)

    opened = Restless.open(tmp_path, embedder=embedder.name, dimension=embedder.dimension)
    async with opened as index, running_retrieval(tmp_path, index=index, embedder=embedder) as run:
        put_off = (await run.user().add(ONE)).document
        assert put_off.state == pb.DOCUMENT_STATE_PENDING
        assert "keep being removed" in put_off.failure
        index.calm = True
        *_, ready = await run.user().watch(put_off.document_id)
        assert (ready.state, ready.failure) == (pb.DOCUMENT_STATE_READY, "")
