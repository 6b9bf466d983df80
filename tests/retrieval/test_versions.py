"""Index versions side by side, in the running service, on both indexes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio

from maieutic.v1 import document_service_pb2 as documents_pb, index_admin_service_pb2 as pb
from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceStub
from services.retrieval.ports import Vectors
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, from_rpc
from services.runtime.identity import acting_for
from tests.retrieval.running import CountingEmbedder, Retrieval, User, running_retrieval
from tests.retrieval.vectors_at_pinecone import Pinecone, running_pinecone
from tests.waiting import wait_until

if TYPE_CHECKING:  # typing names of the generated stubs
    from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceAsyncStub

TEXTS = [
    f"Part {number} is about {topic}. " * 12
    for number, topic in enumerate(
        ("bread and flour", "ships at sea", "the desert at noon", "old clocks")
    )
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned:
    """A running service, its admin, and a look at what its index holds."""

    retrieval: Retrieval
    embedder: CountingEmbedder
    folder: Path
    pinecone: Pinecone | None

    @property
    def user(self) -> User:
        return self.retrieval.user()

    @property
    def stub(self) -> "IndexAdminServiceAsyncStub":
        return IndexAdminServiceStub(self.retrieval.channel)

    async def versions(self) -> list[pb.IndexVersion]:
        with acting_for("acme", "admin"):
            return list((await self.stub.ListIndexVersions(pb.ListIndexVersionsRequest())).versions)

    async def searched(self) -> str:
        (current,) = (one.version_id for one in await self.versions() if one.current)
        return current

    async def build(self, **recipe: object) -> list[pb.IndexVersion]:
        with acting_for("acme", "admin"):
            request = pb.BuildIndexVersionRequest(**recipe)  # type: ignore[arg-type] # a test's own
            call = self.stub.BuildIndexVersion(request, timeout=30)
            try:
                return [response.version async for response in call]
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error) from error

    async def switch(self, version_id: str, *, force: bool = False) -> None:
        await self._do("SwitchIndexVersion", version_id=version_id, force=force)

    async def rollback(self) -> None:
        await self._do("RollbackIndexVersion")

    async def drop(self, version_id: str) -> None:
        await self._do("DropIndexVersion", version_id=version_id)

    async def _do(self, name: str, **fields: object) -> None:
        with acting_for("acme", "admin"):
            try:
                await getattr(self.stub, name)(getattr(pb, f"{name}Request")(**fields))
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error) from error

    async def lengths(self) -> set[int]:
        """Return how long the passages of a search are, in hundreds of characters."""
        found = await self.user.search("bread", limit=50, fetch=200)
        return {round(len(one.text) / 100) for one in found}

    async def becomes_short(self) -> None:
        async def short() -> bool:
            return max(await self.lengths(), default=0) == 1

        await wait_until(short, every=0.05)

    def stores(self) -> int:
        """Return how many places of vectors there are."""
        if self.pinecone is None:
            return len(list(self.folder.glob("*@*")))
        index = self.pinecone.emulator.indexes["passages"]
        return sum("%40" in name and bool(index.read(name)) for name in index.namespaces)


@pytest_asyncio.fixture(params=["local", "pinecone"])
async def versioned(
    request: pytest.FixtureRequest, tmp_path: Path, embedder: CountingEmbedder
) -> AsyncIterator[Versioned]:
    async with AsyncExitStack() as stack:
        pinecone = None
        if request.param == "pinecone":
            pinecone = await stack.enter_async_context(running_pinecone(tmp_path))
        opened = running_retrieval(
            tmp_path, pinecone=pinecone.options if pinecone else None, embedder=embedder
        )
        retrieval = await stack.enter_async_context(opened)
        yield Versioned(retrieval=retrieval, embedder=embedder, folder=tmp_path, pinecone=pinecone)


async def test_a_version_is_built_beside_switched_to_rolled_back_from_and_dropped(
    versioned: Versioned,
) -> None:
    ids = [(await versioned.user.add(text)).document.document_id for text in TEXTS]
    first = await versioned.searched()
    before = await versioned.lengths()
    frames = await versioned.build(chunk_characters=100, chunk_overlap=0)
    second = frames[-1].version_id
    assert (frames[-1].building, frames[-1].documents, frames[-1].documents_total) == (False, 4, 4)
    assert second != first
    assert await versioned.lengths() == before
    await versioned.switch(second)
    await versioned.becomes_short()
    await versioned.rollback()
    await wait_until(lambda: _equal(versioned, before), every=0.05)
    await versioned.drop(second)
    assert [one.version_id for one in await versioned.versions()] == [first]
    assert versioned.stores() == 0
    assert {one.document_id for one in await versioned.user.search("part", limit=50)} == set(ids)


async def _equal(versioned: Versioned, lengths: set[int]) -> bool:
    return await versioned.lengths() == lengths


async def test_documents_that_change_while_a_version_is_built_are_right_in_both(
    versioned: Versioned,
) -> None:
    user = versioned.user
    kept, replaced, deleted = [(await user.add(text)).document.document_id for text in TEXTS[:3]]
    building = asyncio.create_task(versioned.build(chunk_characters=100, chunk_overlap=0))
    added = (await user.add(TEXTS[3])).document.document_id
    await user.replace(replaced, "What came in its place. " * 20)
    await user.delete(deleted)
    second = (await building)[-1].version_id
    wanted = {kept, replaced, added}

    async def gone() -> bool:
        (one, other) = await versioned.versions()
        return one.documents == other.documents == other.documents_total == 3

    await wait_until(gone, every=0.1)
    for switch in (False, True):
        if switch:
            await versioned.switch(second)
            await versioned.becomes_short()
        passages = await user.search("part", limit=50, fetch=200)
        assert {one.document_id for one in passages} == wanted
        assert {"its place" in one.text for one in passages if one.document_id == replaced} == {
            True
        }
    assert (await user.check()).fault_count == 0


async def test_a_switch_to_what_is_not_built_is_refused_unless_forced_and_then_told_as_stale(
    versioned: Versioned,
) -> None:
    added = await versioned.user.add(TEXTS[0])
    archive = versioned.retrieval.archive
    archive.may_finish.clear()
    archive.finishing.clear()
    building = asyncio.create_task(versioned.build(chunk_characters=100, chunk_overlap=0))
    await archive.finishing.wait()
    (second,) = (one.version_id for one in await versioned.versions() if not one.current)
    with pytest.raises(FailedPrecondition, match="being built"):
        await versioned.switch(second)
    await versioned.switch(second, force=True)
    request = documents_pb.SearchDocumentsRequest(query="bread", version_token=added.version_token)
    answer = await versioned.user.look(request)
    assert (answer.stale, list(answer.passages)) == (True, [])
    archive.may_finish.set()
    await building
    answer = await versioned.user.look(request)
    assert answer.passages
    assert not answer.stale


async def test_what_was_added_is_found_on_both_sides_of_a_switch(versioned: Versioned) -> None:
    """A version token holds, whichever version answers, while switches go on beside."""
    user = versioned.user
    await user.add(TEXTS[0])
    second = (await versioned.build(chunk_characters=100, chunk_overlap=0))[-1].version_id
    versions = [await versioned.searched(), second]
    for number in range(4):
        switching = asyncio.create_task(versioned.switch(versions[(number + 1) % 2], force=False))
        added = await user.add(f"Number {number} has a text of its own.")
        request = documents_pb.SearchDocumentsRequest(
            query=f"Number {number}",
            document_ids=[added.document.document_id],
            version_token=added.version_token,
        )
        answer = await user.look(request)
        assert answer.passages
        assert not answer.stale
        # Refused where the document came between: then it is tried with the next one.
        await asyncio.gather(switching, return_exceptions=True)


async def test_bytes_are_kept_once_and_a_version_embeds_each_chunk_once(
    versioned: Versioned,
) -> None:
    await versioned.user.add(TEXTS[0])
    await versioned.build(chunk_characters=100, chunk_overlap=0)
    versioned.embedder.texts.clear()
    await versioned.build(chunk_characters=100, chunk_overlap=0)
    assert versioned.embedder.texts == []
    harness = versioned.retrieval.archive.harness
    assert len(await harness.rows("SELECT * FROM document_contents")) == 1


async def test_what_cannot_be_is_refused(versioned: Versioned) -> None:
    first = await versioned.searched()
    with pytest.raises(InvalidArgument, match="embedder_url"):
        await versioned.build(embedder_url="none://x")
    with pytest.raises(InvalidArgument, match="chunk_overlap"):
        await versioned.build(chunk_characters=100, chunk_overlap=100)
    with pytest.raises(FailedPrecondition, match="switch first"):
        await versioned.drop(first)
    with pytest.raises(NotFound):
        await versioned.rollback()
    with pytest.raises(NotFound):
        await versioned.switch("0" * 16)
    await versioned.drop("0" * 16)
    assert [one.version_id for one in await versioned.versions()] == [first]


async def test_a_drop_that_was_cut_off_is_ended_by_the_next_one(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    async with running_retrieval(tmp_path, embedder=embedder) as retrieval:
        versioned = Versioned(
            retrieval=retrieval, embedder=embedder, folder=tmp_path, pinecone=None
        )
        await versioned.user.add(TEXTS[0])
        second = (await versioned.build(chunk_characters=100, chunk_overlap=0))[-1].version_id
        dropping = asyncio.create_task(versioned.drop(second))

        async def begun() -> bool:
            return any(one.dropping for one in await versioned.versions())

        await wait_until(begun)
        dropping.cancel()
        await asyncio.wait([dropping])
        added = await versioned.user.add(TEXTS[1])
        assert added.document.state == documents_pb.DOCUMENT_STATE_READY
        await versioned.drop(second)
        assert len(await versioned.versions()) == 1
        assert versioned.stores() == 0


async def test_a_search_ends_on_the_version_that_it_began_with(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    """The query waits in the embedder while searches move on and the version is dropped."""
    held = HeldEmbedder(embedder)
    async with running_retrieval(tmp_path, embedder=held) as retrieval:
        versioned = Versioned(
            retrieval=retrieval, embedder=embedder, folder=tmp_path, pinecone=None
        )
        await versioned.user.add(TEXTS[0])
        second = (await versioned.build(chunk_characters=100, chunk_overlap=0))[-1].version_id
        first, before = await versioned.searched(), await versioned.lengths()
        held.queries.clear()
        searching = asyncio.create_task(versioned.lengths())
        await held.asked.wait()
        await versioned.switch(second)
        dropping = asyncio.create_task(versioned.drop(first))

        async def begun() -> bool:
            return any(one.dropping for one in await versioned.versions())

        await wait_until(begun)
        held.queries.set()
        assert await searching == before
        await dropping
        await versioned.becomes_short()


class HeldEmbedder(CountingEmbedder):
    """Answers queries only while it is told to."""

    def __init__(self, inner: CountingEmbedder) -> None:
        super().__init__(inner)
        self.queries, self.asked = asyncio.Event(), asyncio.Event()
        self.queries.set()

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        if query:
            self.asked.set()
            await self.queries.wait()
        return await super().embed(texts, query=query)


async def test_an_embedder_that_does_not_fit_the_index_leaves_no_version(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    async with running_pinecone(tmp_path) as pinecone:
        opened = running_retrieval(tmp_path, pinecone=pinecone.options, embedder=embedder)
        async with opened as retrieval:
            versioned = Versioned(
                retrieval=retrieval, embedder=embedder, folder=tmp_path, pinecone=pinecone
            )
            await versioned.user.add(TEXTS[0])
            with pytest.raises(InvalidArgument, match="dimension"):
                await versioned.build(embedder_url="pinecone://some-model/7")
            (only,) = await versioned.versions()
            assert only.current
