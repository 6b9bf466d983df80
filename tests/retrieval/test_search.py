"""Searching: the right passages, of the right documents, for the right people."""

import asyncio
from typing import Any

import pytest

from maieutic.v1 import document_service_pb2 as pb
from services.runtime.errors import InvalidArgument, NotFound
from tests.retrieval.corpus import characteristic_sentence, descriptions
from tests.retrieval.running import Retrieval, User, refusal_of
from tests.retrieval.test_documents import fields_of

MARKDOWN = pb.DOCUMENT_FORMAT_MARKDOWN


async def added(user: User, texts: dict[str, str]) -> dict[str, str]:
    """Return name to document id."""
    documents = await asyncio.gather(
        *(user.add(text, name=name, form=MARKDOWN) for name, text in texts.items())
    )
    return {one.document.name: one.document.document_id for one in documents}


async def test_a_characteristic_sentence_finds_its_document(retrieval: Retrieval) -> None:
    user, texts = retrieval.user(), descriptions(40)
    await added(user, texts)
    names = list(texts)[:20]
    missed = []
    for name in names:
        passages = await user.search(characteristic_sentence(name, texts))
        assert len(passages) == 5
        if name not in {passage.document_name for passage in passages}:
            missed.append(name)
    assert len(missed) <= 2, f"recall of 5 is {1 - len(missed) / len(names):.0%}: {missed}"


async def test_passages_come_best_first_each_once_with_where_they_stand(
    retrieval: Retrieval,
) -> None:
    user, texts = retrieval.user(), descriptions(8)
    ids = await added(user, texts)
    passages = await user.search("install the package with pip", limit=20)
    assert all(-1 <= passage.score <= 1.0001 for passage in passages)
    assert len({passage.chunk_id for passage in passages}) == len(passages) == 20
    for passage in passages:
        document = await user.get(passage.document_id)
        assert ids[passage.document_name] == passage.document_id
        assert 0 <= passage.position < document.chunk_count
        text, whole = passage.text.split(), texts[passage.document_name].split()
        assert "".join(text) in "".join(whole)


async def test_a_passage_is_found_by_a_word_that_its_vector_blurs(retrieval: Retrieval) -> None:
    user = retrieval.user()
    for number in range(400, 430):
        await user.add(f"Error code E{number} says that the pump of the boiler stands still.")
    passages = await user.search("What does E417 say of the boiler's pump?", fetch=50)
    assert "E417" in passages[0].text
    assert passages[0].score < max(passage.score for passage in passages) + 1e-6


async def test_a_search_may_leave_out_what_is_far_and_what_is_alike(retrieval: Retrieval) -> None:
    user = retrieval.user()
    for number in range(4):
        await user.add(f"Bees make honey from nectar, page {number}.")
    await user.add("Honey keeps for years in a closed jar.")
    await user.add("Trains leave on time.")
    query = "How do bees make honey?"
    everything = await user.search(query, limit=6)
    assert len(everything) == 6
    least = everything[0].score - 0.2
    near = await user.search(query, limit=6, minimum_score=least)
    assert [one.text for one in near] == [one.text for one in everything if one.score >= least]
    assert len(near) < 6
    alike = await user.search(query, limit=2)
    assert all("Bees" in passage.text for passage in alike)
    different = await user.search(query, limit=2, mmr_lambda=0.3)
    assert different[0] == alike[0]
    assert "Bees" not in different[1].text


async def test_numbers_of_a_search_that_are_out_of_range_are_refused_by_field(
    retrieval: Retrieval,
) -> None:
    bad: dict[str, Any] = {
        "fetch": 201,
        "limit": 51,
        "minimum_score": 1.5,
        "mmr_lambda": float("nan"),
    }
    for field, value in bad.items():
        refusal = await refusal_of(retrieval.user().search("query", **{field: value}))
        assert isinstance(refusal, InvalidArgument)
        assert fields_of(refusal) == [field]


async def test_a_search_can_be_kept_to_documents_by_what_is_known_of_them(
    retrieval: Retrieval,
) -> None:
    user = retrieval.user()
    for name, form in (("Guide.md", MARKDOWN), ("guide.txt", pb.DOCUMENT_FORMAT_TEXT)):
        await user.add(f"What {name} says of whales.", name=name, form=form)
    await user.add("What else is said of whales.", name="other")
    (first, *_, last) = sorted(
        (await user.page()).documents, key=lambda one: one.create_time.ToNanoseconds()
    )

    async def found(**wanted: Any) -> set[str]:
        passages = await user.search("whales", filter=pb.DocumentFilter(**wanted))
        return {passage.document_name for passage in passages}

    everything = {"Guide.md", "guide.txt", "other"}
    assert await found() == everything
    assert await found(name_contains="GUIDE") == {"Guide.md", "guide.txt"}
    assert await found(name_contains="guide", formats=[MARKDOWN]) == {"Guide.md"}
    assert await found(formats=[pb.DOCUMENT_FORMAT_PDF]) == set()
    assert await found(created_since=last.create_time) == {last.name}
    assert await found(created_before=last.create_time) == everything - {last.name}
    assert await found(created_before=first.create_time) == set()


async def test_a_search_can_be_kept_to_some_documents(retrieval: Retrieval) -> None:
    user = retrieval.user()
    ids = list((await added(user, descriptions(6))).values())
    for chosen in (ids[:1], ids[2:4], ids):
        passages = await user.search("what is it for", document_ids=chosen, limit=50)
        assert {passage.document_id for passage in passages} <= set(chosen)
        assert passages


async def test_a_shared_passage_is_shown_in_the_document_that_is_searched(
    retrieval: Retrieval,
) -> None:
    user, shared = retrieval.user(), "The shared heading\n\n" + "All bears like honey. " * 40
    ids = await added(user, {name: f"{shared}\n\n# {name}\n\n{name} " * 1 for name in "abc"})
    for name, document_id in ids.items():
        passages = await user.search("bears like honey", document_ids=[document_id], limit=1)
        assert [passage.document_name for passage in passages] == [name]
    everywhere = await user.search("bears like honey", limit=50)
    assert len({passage.chunk_id for passage in everywhere}) == len(everywhere)


async def test_nobody_finds_what_is_not_theirs(retrieval: Retrieval) -> None:
    """Neither by searching everything, nor by naming the id of another's document."""
    secret, query = "The treasure lies beneath the old oak in Lisbon.", "where lies the treasure"
    planted = (await retrieval.user("ana").add(secret)).document.document_id
    assert (await retrieval.user("ana").search(query, document_ids=[planted]))[0].text == secret
    for stranger in (
        retrieval.user("ben"),
        retrieval.user("ana", tenant="other"),
        retrieval.user("ben", tenant="other"),
    ):
        own = (await stranger.add("My own notes on gardening.")).document.document_id
        assert {one.document_id for one in await stranger.search(query, limit=50)} == {own}
        refusal = await refusal_of(stranger.search(query, document_ids=[own, planted]))
        assert isinstance(refusal, NotFound)
        assert fields_of(refusal) == ["document_ids[1]"]


async def test_a_document_that_was_given_up_is_not_searched_any_more(retrieval: Retrieval) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    text = "A text that both of them have."
    document_id = (await ana.add(text)).document.document_id
    await ben.add(text)
    assert await ana.search("text", document_ids=[document_id])
    await ana.delete(document_id)
    assert isinstance(await refusal_of(ana.search("text", document_ids=[document_id])), NotFound)
    assert not await ana.search("text")


async def test_ownership_is_asked_for_once_in_a_while_not_for_every_search(
    retrieval: Retrieval,
) -> None:
    user = retrieval.user()
    document_id = (await user.add("A text.")).document.document_id
    asked = retrieval.archive.calls["get"]
    for _ in range(5):
        await user.search("text", document_ids=[document_id])
    assert asked
    assert retrieval.archive.calls["get"] == asked


async def test_a_bad_search_is_refused_by_field(retrieval: Retrieval) -> None:
    user = retrieval.user()
    for call, field in (
        (user.search(""), "query"),
        (user.search(" \n"), "query"),
        (user.search("x", limit=-1), "limit"),
        (user.search("x", limit=51), "limit"),
    ):
        refusal = await refusal_of(call)
        assert isinstance(refusal, InvalidArgument)
        assert fields_of(refusal) == [field]


@pytest.mark.parametrize("query", ["a", "\u200b", "🙂" * 2000, "x" * 8192, "\x00"])
async def test_any_query_is_answered(retrieval: Retrieval, query: str) -> None:
    user = retrieval.user()
    await user.add("Some text about a thing.")
    assert len(await user.search(query)) == 1


async def test_searches_are_answered_while_documents_come_and_go(retrieval: Retrieval) -> None:
    """What was there before stays found, with its own text, whatever happens around it."""
    user, texts = retrieval.user(), descriptions(30)
    kept = dict(list(texts.items())[:3])
    ids = await added(user, kept)
    queries = {name: characteristic_sentence(name, texts) for name in kept}
    coming = {name: text for name, text in texts.items() if name not in kept}
    adding = asyncio.create_task(added(user, coming))
    searches = 0
    while not adding.done() or searches < 30:
        name = list(kept)[searches % 3]
        first = (await user.search(queries[name], document_ids=[ids[name]]))[0]
        assert first.document_id == ids[name]
        searches += 1
    gone = await adding
    await asyncio.gather(
        *(user.delete(document_id) for document_id in gone.values()),
        *(user.search(query) for query in queries.values()),
    )
    left = await user.search("anything at all", limit=50)
    assert {passage.document_id for passage in left} <= set(ids.values())
    assert left
