"""No search and no list crosses a tenant or a user, whatever is planted in a request."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from services.runtime.errors import NotFound
from tests.retrieval.running import (
    CountingEmbedder,
    Retrieval,
    User,
    refusal_of,
    running_retrieval,
)
from tests.retrieval.vectors_at_pinecone import running_pinecone

SECRET = "The password of the vault of Acme is swordfish."
SHARED = "Everybody knows that water is wet."
QUERY = "password of the vault"
STRANGERS = (
    ("ben", "acme"),
    ("ana", "other"),
    ("ana", "acme:ana"),
    ("ana", "acme%3A"),
    ("ana", "ACME"),
    ("ana", "acm\u0435"),
    ("acme", "ana"),
    ("'; --", "acme' OR '1'='1"),
)
"""Users and tenants whose names could be taken for another's, by a sloppy key."""


@pytest_asyncio.fixture(params=["local", "pinecone"])
async def retrieval(
    request: pytest.FixtureRequest, tmp_path: Path, embedder: CountingEmbedder
) -> AsyncIterator[Retrieval]:
    async with AsyncExitStack() as stack:
        pinecone = None
        if request.param == "pinecone":
            pinecone = (await stack.enter_async_context(running_pinecone(tmp_path))).options
        opened = running_retrieval(tmp_path, pinecone=pinecone, embedder=embedder)
        yield await stack.enter_async_context(opened)


async def told(user: User, document_id: str) -> str:
    """Return how the user's search in that document is refused, without the id."""
    refusal = await refusal_of(user.search(QUERY, document_ids=[document_id]))
    assert isinstance(refusal, NotFound)
    return str(refusal).replace(document_id, "")


async def test_a_planted_document_id_finds_nothing_and_tells_nothing(
    retrieval: Retrieval,
) -> None:
    owner = retrieval.user("ana", tenant="acme")
    secret = (await owner.add(SECRET)).document.document_id
    for name, tenant in STRANGERS:
        stranger = retrieval.user(name, tenant=tenant)
        own = (await stranger.add(f"{SHARED} {tenant}")).document.document_id
        # What is there and another's must look like what is not there.
        assert await told(stranger, secret) == await told(stranger, "A" * 24)
        mixed = stranger.search(QUERY, document_ids=[own, secret])
        assert isinstance(await refusal_of(mixed), NotFound)
        assert {one.document_id for one in await stranger.search(QUERY, limit=50)} == {own}
        assert isinstance(await refusal_of(stranger.get(secret)), NotFound)
        await stranger.delete(secret)
    assert [one.text for one in await owner.search(QUERY)] == [SECRET]


async def test_a_planted_filter_is_no_document_id(retrieval: Retrieval) -> None:
    await retrieval.user("ana", tenant="acme").add(SECRET)
    stranger = retrieval.user("ben", tenant="other")
    for planted in ("*", "acme/x" * 4, "../" * 8, "%" * 24, "{'$exists': true}", "' OR '1'='1"):
        refusal = await refusal_of(stranger.search(QUERY, document_ids=[planted]))
        assert isinstance(refusal, NotFound), planted


async def test_a_planted_page_token_lists_only_ones_own(retrieval: Retrieval) -> None:
    owner = retrieval.user("ana", tenant="acme")
    for number in range(3):
        await owner.add(f"{SECRET} {number}")
    token = (await owner.page(1)).next_page_token
    for name, tenant in STRANGERS:
        stranger = retrieval.user(name, tenant=tenant)
        assert not (await stranger.page(50, token)).documents
        own = (await stranger.add(f"{SHARED} {tenant} {name}")).document.document_id
        listed = [*(await stranger.page(50)).documents, *(await stranger.page(50, token)).documents]
        assert {one.document_id for one in listed} == {own}


async def test_the_same_text_and_request_id_of_two_tenants_are_two_things(
    retrieval: Retrieval,
) -> None:
    ana = retrieval.user("ana", tenant="acme")
    other = retrieval.user("ana", tenant="other")
    first = await ana.add(SHARED, request_id="r-1")
    second = await other.add(SHARED, request_id="r-1")
    assert second.chunks_embedded == first.chunks_embedded == 1
    await ana.delete(first.document.document_id)
    assert not await ana.search("water")
    assert [one.document_id for one in await other.search("water")] == [second.document.document_id]
