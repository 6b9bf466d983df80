"""Comparing the registry with the index, and putting right what differs."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest_asyncio

from maieutic.v1 import document_admin_service_pb2 as admin_pb, document_service_pb2 as pb
from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.model import Chunk
from tests.retrieval.corpus import descriptions
from tests.retrieval.running import CountingEmbedder, Retrieval, running_retrieval
from tests.waiting import wait_until

TENANT = "acme"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A running service, and its index to tamper with."""

    retrieval: Retrieval
    index: LocalVectorIndex
    embedder: CountingEmbedder

    async def plant(self, name: str, *, document_id: str, linked: bool) -> None:
        """Store a chunk that the registry knows nothing of."""
        vector = np.zeros((1, self.embedder.dimension), np.float32)
        vector[0, 0] = 1
        await self.index.upsert(TENANT, document_id, [Chunk(id=name, text=name)], vector)
        if linked:
            assert await self.index.link(TENANT, document_id, [name])

    async def faults(self, *, repair: bool = False) -> set[tuple[str, str]]:
        found = await self.retrieval.user().check(repair=repair)
        assert found.fault_count == len(found.faults)
        kinds = {
            admin_pb.DOCUMENT_FAULT_KIND_ORPHAN: "orphan",
            admin_pb.DOCUMENT_FAULT_KIND_MISSING: "missing",
        }
        return {(one.document_id, kinds[one.kind]) for one in found.faults}


@pytest_asyncio.fixture
async def opened(tmp_path: Path, embedder: CountingEmbedder) -> AsyncIterator[Opened]:
    opening = LocalVectorIndex.open(tmp_path, embedder=embedder.name, dimension=embedder.dimension)
    async with (
        opening as index,
        running_retrieval(tmp_path, index=index, embedder=embedder) as retrieval,
    ):
        yield Opened(retrieval=retrieval, index=index, embedder=embedder)


async def test_what_the_index_lost_is_found_and_indexed_again(opened: Opened) -> None:
    user = opened.retrieval.user()
    one, two, three = [
        (await user.add(text)).document.document_id for text in descriptions(3).values()
    ]
    assert await opened.faults() == set()
    await opened.index.unlink(TENANT, one)
    chunks = (await opened.index.contents(TENANT))[two]
    assert await opened.index.link(TENANT, two, sorted(chunks)[1:])
    assert await opened.faults() == {(one, "missing"), (two, "missing")}
    assert await opened.faults(repair=True) == {(one, "missing"), (two, "missing")}
    for document_id in (one, two, three):
        assert (await user.watch(document_id))[-1].state == pb.DOCUMENT_STATE_READY
    assert await opened.faults() == set()


async def test_what_no_document_has_is_found_and_removed(opened: Opened) -> None:
    kept = (await opened.retrieval.user().add("A text.")).document.document_id
    await opened.plant("of a document that is gone", document_id="gone", linked=True)
    await opened.plant("of one that never came to be", document_id="never", linked=False)
    assert await opened.faults() == {("gone", "orphan"), ("", "orphan")}

    async def sound() -> bool:
        await opened.faults(repair=True)  # which leaves alone what is being changed
        return await opened.faults() == set()

    await wait_until(sound)
    assert set(await opened.index.contents(TENANT)) == {kept}


async def test_documents_that_are_being_changed_are_left_out(opened: Opened) -> None:
    archive, user = opened.retrieval.archive, opened.retrieval.user()
    archive.may_finish.clear()
    await user.add("A text.", accept_only=True)
    await archive.finishing.wait()
    found = await user.check(repair=True)
    assert (found.documents, found.documents_changing, found.fault_count) == (0, 1, 0)
    archive.may_finish.set()


async def test_the_documents_of_every_tenant_are_compared(opened: Opened) -> None:
    for tenant in ("acme", "other", "third"):
        await opened.retrieval.user(tenant=tenant).add("A text.")
    found = await opened.retrieval.user().check()
    assert (found.tenants, found.documents, found.chunks) == (3, 3, 3)
