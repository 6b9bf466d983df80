"""The service on the archive itself, in SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from maieutic.v1 import document_service_pb2 as pb
from services.persistence.adapters.archive import open_archive
from services.persistence.rpc import ArchiveServicer
from services.runtime.errors import AlreadyExists, NotFound
from tests.retrieval.corpus import descriptions
from tests.retrieval.running import CountingEmbedder, Retrieval, refusal_of, running_retrieval


@pytest_asyncio.fixture
async def retrieval(tmp_path: Path, embedder: CountingEmbedder) -> AsyncIterator[Retrieval]:
    async with open_archive(f"sqlite:///{tmp_path / 'archive.sqlite'}") as archive:
        servicer = ArchiveServicer(reads=archive, branches=archive, documents=archive)
        async with running_retrieval(
            tmp_path, other_archive=servicer, embedder=embedder
        ) as running:
            yield running


async def test_a_document_lives_from_its_adding_to_its_last_release(retrieval: Retrieval) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    (name, text), *_ = descriptions(1).items()
    first = await ana.add(text, name=name)
    assert first.document.state == pb.DOCUMENT_STATE_READY
    assert (await ben.add(text)).chunks_embedded == 0
    document_id = first.document.document_id
    assert await ana.get(document_id) == first.document
    await ana.delete(document_id)
    assert isinstance(await refusal_of(ana.get(document_id)), NotFound)
    assert await ben.search("what is it", document_ids=[document_id])
    await ben.delete(document_id)
    await ben.delete(document_id)
    assert (await ana.add(text)).chunks_embedded == first.chunks_embedded


async def test_pages_go_through_all_documents_once(retrieval: Retrieval) -> None:
    user, token = retrieval.user(), ""
    listed: list[str] = []
    added = [(await user.add(f"text {number}")).document.document_id for number in range(11)]
    while not listed or token:
        page = await user.page(4, token)
        listed += [document.document_id for document in page.documents]
        token = page.next_page_token
    assert sorted(listed) == sorted(added)
    assert {one.document_id for one in await user.search("text", limit=50)} == set(added)


async def test_a_request_id_is_good_for_one_request(retrieval: Retrieval) -> None:
    user = retrieval.user()
    await user.add("one", request_id="r")
    await user.add("one", request_id="r")
    assert isinstance(await refusal_of(user.add("two", request_id="r")), AlreadyExists)
