"""Sets and collections of documents, and searches that demand to see what was done."""

import asyncio

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.model import document_set_id
from services.runtime.errors import AlreadyExists, InvalidArgument, NotFound
from services.session.ids import document_set_id as sessions_set_id
from tests.retrieval.running import Retrieval, User, refusal_of
from tests.retrieval.test_documents import fields_of
from tests.waiting import wait_until

STORKS, OWLS, SWANS = "Storks nest on chimneys.", "Owls hunt at night.", "Swans stay together."


async def ids_of(user: User, *texts: str) -> list[str]:
    return [(await user.add(text)).document.document_id for text in texts]


async def found(user: User, **where: object) -> set[str]:
    """Return the texts that a search of that place finds."""
    request = pb.SearchDocumentsRequest(query="birds", limit=50, **where)  # type: ignore[arg-type]
    return {passage.text for passage in (await user.look(request)).passages}


async def test_a_set_is_named_by_its_members_in_any_order(retrieval: Retrieval) -> None:
    ana = retrieval.user("ana")
    one, two = await ids_of(ana, STORKS, OWLS)
    made = await ana.make_set(one, two)
    assert made == await ana.make_set(two, one) == document_set_id([one, two])
    assert made == sessions_set_id([two, one])
    assert await ana.make_set(one) != made
    ben = retrieval.user("ben")
    assert await found(ben, document_set_ids=[made]) == {STORKS, OWLS}
    assert await found(ben) == set()


async def test_a_set_keeps_its_documents_until_it_is_given_up(retrieval: Retrieval) -> None:
    ana = retrieval.user("ana")
    one, two = await ids_of(ana, STORKS, OWLS)
    made = await ana.make_set(one, two)
    for document_id in (one, two):
        await ana.delete(document_id)
    assert await found(retrieval.user("ben"), document_set_ids=[made]) == {STORKS, OWLS}
    listed = (await ana.page(document_set_id=made)).documents
    assert {document.document_id for document in listed} == {one, two}
    for _ in range(2):
        await ana.detach(document_set_id=made)
    await wait_until(retrieval.archive.is_empty)
    refusal = await refusal_of(found(ana, document_set_ids=[made]))
    assert isinstance(refusal, NotFound)


async def test_a_collection_is_every_users_of_the_tenant_and_nobody_elses(
    retrieval: Retrieval,
) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    stranger = retrieval.user("ana", tenant="other")
    one, two = await ids_of(ana, STORKS, OWLS)
    await ana.attach("brand-x", one)
    assert await found(ben, collections=["brand-x"]) == {STORKS}
    assert await found(ben, document_ids=[one]) == {STORKS}
    assert await found(stranger, collections=["brand-x"]) == set()
    assert isinstance(await refusal_of(found(stranger, document_ids=[one])), NotFound)
    assert isinstance(await refusal_of(ben.attach("brand-x", two)), NotFound)
    await ben.attach("brand-y", one)
    await ana.attach("brand-y", two)
    assert await found(ben, collections=["brand-x", "brand-y"]) == {STORKS, OWLS}
    await ana.detach("brand-y", one, two)
    assert await found(ben, collections=["brand-y"]) == set()


async def test_several_places_are_searched_at_once(retrieval: Retrieval) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    one, two, three = await ids_of(ana, STORKS, OWLS, SWANS)
    await ana.attach("brand-x", one)
    made = await ana.make_set(one, two)
    (own,) = await ids_of(ben, "Geese fly south.")
    where = {"document_ids": [own], "collections": ["brand-x"], "document_set_ids": [made]}
    assert await found(ben, **where) == {STORKS, OWLS, "Geese fly south."}
    assert three


async def test_replaced_content_is_seen_in_sets_and_collections(retrieval: Retrieval) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    (one,) = await ids_of(ana, STORKS)
    made = await ana.make_set(one)
    await ana.attach("brand-x", one)
    await ana.replace(one, OWLS)
    assert await found(ben, document_set_ids=[made]) == {OWLS}
    assert await found(ben, collections=["brand-x"]) == {OWLS}


async def test_what_is_shared_wrongly_is_refused_by_field(retrieval: Retrieval) -> None:
    user = retrieval.user()
    (one,) = await ids_of(user, STORKS)
    for call, kind, field in (
        (user.make_set(), InvalidArgument, "document_ids"),
        (user.make_set(one, "x" * 24), NotFound, "document_ids[1]"),
        (user.attach("brand-x"), InvalidArgument, "document_ids"),
        (user.detach(), InvalidArgument, "collection"),
        (user.detach("brand-x"), InvalidArgument, "document_ids"),
        (user.detach("", one, document_set_id="s" * 24), InvalidArgument, "document_ids"),
        (user.page(collection="a", document_set_id="b" * 24), InvalidArgument, "document_set_id"),
        (found(user, version_token="x1"), InvalidArgument, "version_token"),
    ):
        refusal = await refusal_of(call)
        assert isinstance(refusal, kind)
        assert fields_of(refusal) == [field]
    await user.attach("brand-x", one, request_id="r-1")
    taken = await refusal_of(user.detach("brand-x", one, request_id="r-1"))
    assert isinstance(taken, AlreadyExists)


async def test_a_search_that_demands_a_version_waits_until_it_is_there(
    retrieval: Retrieval,
) -> None:
    user = retrieval.user()
    (one,) = await ids_of(user, STORKS)
    retrieval.archive.finishing.clear()
    retrieval.archive.may_finish.clear()
    replaced = await user.replace(one, OWLS, accept_only=True)
    assert await found(user, document_ids=[one]) <= {STORKS, OWLS}
    demanding = asyncio.create_task(found(user, version_token=replaced.version_token))
    await retrieval.archive.finishing.wait()
    assert not demanding.done()
    retrieval.archive.may_finish.set()
    assert await demanding == {OWLS}


async def test_a_search_that_cannot_have_its_version_in_time_says_that_it_is_stale(
    retrieval: Retrieval,
) -> None:
    user = retrieval.user()
    before = await user.add(STORKS)
    retrieval.archive.may_finish.clear()
    added = await user.add(OWLS, accept_only=True)
    demand = pb.SearchDocumentsRequest(query="birds", version_token=added.version_token)
    answer = await user.look(demand)
    assert answer.stale
    assert [passage.text for passage in answer.passages] == [STORKS]
    earlier = pb.SearchDocumentsRequest(query="birds", version_token=before.version_token)
    assert not (await user.look(earlier)).stale
    retrieval.archive.may_finish.set()


async def test_a_search_that_demands_a_deletion_finds_nothing_of_the_document(
    retrieval: Retrieval,
) -> None:
    ana = retrieval.user("ana")
    (one,) = await ids_of(ana, STORKS)
    await ana.attach("brand-x", one)
    token = (await ana.detach("brand-x", one)).version_token
    answer = await ana.look(
        pb.SearchDocumentsRequest(query="birds", collections=["brand-x"], version_token=token)
    )
    assert (list(answer.passages), answer.stale) == ([], False)


async def test_a_document_tells_who_has_it_and_how_it_was_indexed(retrieval: Retrieval) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    (one,) = await ids_of(ana, STORKS)
    await ids_of(ben, STORKS)
    await ana.make_set(one)
    usage = await ana.usage(one)
    assert usage.owner_count == 3
    assert usage.HasField("last_used_time")
    assert usage.index_version.endswith("/1000/200")
