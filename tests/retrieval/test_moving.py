"""Index versions exported from one home and imported into another one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import pytest

from maieutic.v1 import index_admin_service_pb2 as pb
from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceStub
from services.retrieval.errors import BadIndexFile
from services.retrieval.moving import Importer
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, from_rpc
from services.runtime.identity import acting_for
from tests.retrieval.running import CountingEmbedder, Retrieval, User, running_retrieval
from tests.retrieval.vectors_at_pinecone import Pinecone, running_pinecone
from tests.waiting import wait_until

if TYPE_CHECKING:  # typing names of the generated stubs
    from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceAsyncStub

SHORT = pb.BuildIndexVersionRequest(chunk_characters=100, chunk_overlap=0)
TEXTS = [
    " ".join(f"Sentence {number} is about {topic}." for number in range(20))
    for topic in ("bread", "ships at sea", "old clocks")
]
UNUSED: Any = None
Parts: TypeAlias = AsyncIterator[pb.ImportIndexVersionRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A deployment of its own."""

    retrieval: Retrieval
    folder: Path
    pinecone: Pinecone | None

    @property
    def user(self) -> User:
        return self.retrieval.user()

    @property
    def stub(self) -> "IndexAdminServiceAsyncStub":
        return IndexAdminServiceStub(self.retrieval.channel)

    async def add(self, *texts: str) -> None:
        for text in texts:
            await self.user.add(text, name=text[:12])

    async def versions(self) -> list[pb.IndexVersion]:
        with acting_for("acme", "admin"):
            return list((await self.stub.ListIndexVersions(pb.ListIndexVersionsRequest())).versions)

    async def build(self) -> str:
        with acting_for("acme", "admin"):
            call = self.stub.BuildIndexVersion(SHORT, timeout=30)
            return [one.version.version_id async for one in call][-1]

    async def built(self, version_id: str) -> None:
        async def done() -> bool:
            return not any(
                one.building for one in await self.versions() if one.version_id == version_id
            )

        await wait_until(done)

    async def export(self, version_id: str) -> bytes:
        with acting_for("acme", "admin"):
            call = self.stub.ExportIndexVersion(pb.ExportIndexVersionRequest(version_id=version_id))
            try:
                return b"".join([one.content async for one in call])
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error) from error

    async def take(self, file: bytes) -> pb.ImportIndexVersionResponse:
        with acting_for("acme", "admin"):
            call = self.stub.ImportIndexVersion(parts(file), timeout=30)
            try:
                return [one async for one in call][-1]
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error) from error

    async def switch(self, version_id: str) -> None:
        with acting_for("acme", "admin"):
            await self.stub.SwitchIndexVersion(pb.SwitchIndexVersionRequest(version_id=version_id))

        async def switched() -> bool:
            return all(len(text) <= 100 for _, text, _ in await self.passages())

        await wait_until(switched)

    async def passages(self) -> list[tuple[str, str, float]]:
        found = await self.user.search("ships", limit=50, fetch=200)
        return [(one.document_name, one.text, round(one.score, 5)) for one in found]

    def stores(self) -> int:
        """Return how many places of vectors there are beside the first version's."""
        if self.pinecone is None:
            return len(list(self.folder.glob("*@*.sqlite3")))
        index = self.pinecone.emulator.indexes["passages"]
        return sum("%40" in name and bool(index.read(name)) for name in index.namespaces)


async def parts(file: bytes) -> Parts:
    for start in range(0, len(file), 1000):
        yield pb.ImportIndexVersionRequest(content=file[start : start + 1000])


@asynccontextmanager
async def home(
    folder: Path, embedder: CountingEmbedder, *, at_pinecone: bool = False
) -> AsyncIterator[Home]:
    folder.mkdir()
    async with AsyncExitStack() as stack:
        pinecone = (
            await stack.enter_async_context(running_pinecone(folder)) if at_pinecone else None
        )
        options = pinecone.options if pinecone else None
        opened = running_retrieval(folder, pinecone=options, embedder=embedder)
        retrieval = await stack.enter_async_context(opened)
        yield Home(retrieval=retrieval, folder=folder, pinecone=pinecone)


@pytest.mark.parametrize("at_pinecone", [False, True], ids=["local", "pinecone"])
async def test_an_imported_version_is_built_without_embedding_and_finds_the_same(
    tmp_path: Path, embedder: CountingEmbedder, *, at_pinecone: bool
) -> None:
    """From each index into the other one; the second home has documents that the first has not."""
    first, second = tmp_path / "first", tmp_path / "second"
    async with (
        home(first, embedder, at_pinecone=at_pinecone) as one,
        home(second, embedder, at_pinecone=not at_pinecone) as other,
    ):
        await one.add(*TEXTS, "only here")
        await other.add(*reversed(TEXTS))
        embedder.texts.clear()
        version_id = await one.build()
        chunks = set(embedder.texts) - {"only here"}
        file = await one.export(version_id)
        embedder.texts.clear()
        answer = await other.take(file)
        assert (answer.version_id, answer.documents) == (version_id, 3)
        assert (answer.documents_skipped, answer.chunks) == (1, len(chunks))
        await other.built(version_id)
        assert embedder.texts == []
        (_, imported) = await other.versions()
        assert (imported.documents, imported.documents_total) == (3, 3)
        await one.switch(version_id)
        await other.switch(version_id)
        found = [one for one in await one.passages() if one[0] != "only here"]
        assert sorted(await other.passages()) == sorted(found)
        with pytest.raises(FailedPrecondition, match="there already"):
            await other.take(file)


async def test_what_is_refused_changes_nothing(tmp_path: Path, embedder: CountingEmbedder) -> None:
    async with home(tmp_path / "first", embedder) as one, home(tmp_path / "other", embedder) as two:
        await one.add(*TEXTS)
        await two.add(*TEXTS)
        version_id = await one.build()
        file = await one.export(version_id)
        changed = bytes([file[-40] ^ 1])
        # Before the whole file was checked nothing is looked up for it, nor stored.
        archive = two.retrieval.archive
        archive.held_tenant = "acme"
        for wrong, problem in (
            (b"", "cut off"),
            (file[:-1], "cut off"),
            (file[:-40] + changed + file[-39:], "byte"),
            (file + b"x", "behind its end"),
        ):
            with pytest.raises(InvalidArgument, match=problem):
                await two.take(wrong)
        with pytest.raises(NotFound):
            await one.export("0" * 16)
        assert len(await two.versions()) == 1
        assert two.stores() == 0
        assert not archive.listing.is_set()
        archive.held_tenant = ""
        assert (await two.take(file)).documents == 3


async def test_a_version_that_is_not_the_one_of_its_recipe_is_refused(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    async with home(tmp_path / "home", embedder) as one:
        await one.add(TEXTS[0])
        (version,) = await one.versions()
        file = await one.export(version.version_id)
        wrong = file[:-32].replace(version.version_id.encode(), b"0" * 16)
        with pytest.raises(InvalidArgument, match="here that is") as raised:
            await one.take(wrong + sha256(wrong).digest())
        assert raised.value.reason == BadIndexFile.default_reason
        assert len(await one.versions()) == 1


@pytest.mark.parametrize("at_pinecone", [False, True], ids=["local", "pinecone"])
async def test_an_import_that_is_cut_off_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, embedder: CountingEmbedder, *, at_pinecone: bool
) -> None:
    """Once while the file is sent, and once when the documents of one tenant are stored."""
    async with home(tmp_path / "home", embedder, at_pinecone=at_pinecone) as one:
        await one.add(*TEXTS)
        await one.retrieval.user(tenant="zeta").add(TEXTS[0])
        version_id = await one.build()
        file = await one.export(version_id)
        with acting_for("acme", "admin"):
            await one.stub.DropIndexVersion(pb.DropIndexVersionRequest(version_id=version_id))
        embedder.texts.clear()
        sent, archive = asyncio.Event(), one.retrieval.archive

        async def half() -> Parts:
            yield pb.ImportIndexVersionRequest(content=file[: len(file) // 2])
            sent.set()
            await asyncio.Event().wait()

        async def nothing() -> bool:
            return one.stores() == 0

        archive.held_tenant = "zeta"
        for sending, begun in ((half(), sent), (parts(file), archive.listing)):
            with acting_for("acme", "admin"):
                call = one.stub.ImportIndexVersion(sending)
                await begun.wait()
            assert one.stores() == (begun is archive.listing)
            call.cancel()
            await wait_until(nothing)
            assert len(await one.versions()) == 1
        archive.held_tenant = ""
        assert (await one.take(file)).documents == 4
        await one.built(version_id)
        assert embedder.texts == []


@pytest.mark.parametrize("at_pinecone", [False, True], ids=["local", "pinecone"])
async def test_what_is_removed_during_an_import_is_not_in_the_version(
    tmp_path: Path, embedder: CountingEmbedder, *, at_pinecone: bool
) -> None:
    async with home(tmp_path / "home", embedder, at_pinecone=at_pinecone) as one:
        await one.add(*TEXTS)
        await one.retrieval.user(tenant="zeta").add(TEXTS[0])
        version_id = await one.build()
        file = await one.export(version_id)
        with acting_for("acme", "admin"):
            await one.stub.DropIndexVersion(pb.DropIndexVersionRequest(version_id=version_id))
        archive = one.retrieval.archive
        archive.held_tenant = "zeta"
        taking = asyncio.create_task(one.take(file))
        await archive.listing.wait()
        removed = (await one.user.page()).documents[0].document_id
        await one.user.delete(removed)

        async def gone() -> bool:
            return removed not in await archive.states()

        await wait_until(gone)
        archive.may_list.set()
        assert (await taking).documents == 4
        await one.built(version_id)
        await one.switch(version_id)
        assert not (await one.user.check()).faults


async def test_a_file_is_received_only_up_to_its_limit() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10

    importer = Importer(
        catalog=UNUSED, versions=UNUSED, inventory=UNUSED, keeper=UNUSED, most_bytes=99
    )
    with pytest.raises(BadIndexFile, match="larger than 99 bytes"):
        await anext(importer.version(endless()))
