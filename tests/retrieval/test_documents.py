"""Adding, listing and removing documents, through the service's own gRPC."""

import asyncio

from google.rpc.error_details_pb2 import BadRequest

from maieutic.v1 import document_service_pb2 as pb
from services.runtime.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServiceError,
)
from tests.retrieval.parsing.files import docx, paragraph, pdf
from tests.retrieval.running import CountingEmbedder, Retrieval, refusal_of
from tests.waiting import wait_until

PARAGRAPHS = [f"Paragraph {number} " + f"speaks of subject {number}. " * 30 for number in range(12)]


def text_of(paragraphs: list[str]) -> str:
    return "\n\n".join(paragraphs)


def fields_of(error: ServiceError) -> list[str]:
    found = []
    for detail in error.details():
        bad = BadRequest()
        if getattr(detail, "Is", lambda _: False)(BadRequest.DESCRIPTOR):
            detail.Unpack(bad)  # type: ignore[attr-defined] # an Any, by its Is
            found += [violation.field for violation in bad.field_violations]
    return found


async def known(retrieval: Retrieval, *document_ids: str) -> bool:
    """Whether the registry has these documents, and no others, not even to remove them."""
    return set(await retrieval.archive.states()) == set(document_ids)


async def test_a_document_is_ready_and_complete_once_it_is_added(retrieval: Retrieval) -> None:
    added = await retrieval.user().add(text_of(PARAGRAPHS), name="paragraphs")
    document = added.document
    assert document.state == pb.DOCUMENT_STATE_READY
    assert document.name == "paragraphs"
    assert document.size == len(text_of(PARAGRAPHS).encode())
    assert document.chunk_count == added.chunks_embedded > 1
    assert added.chunks_reused == 0
    assert await retrieval.user().get(document.document_id) == document


async def test_the_same_content_again_embeds_nothing(
    retrieval: Retrieval, embedder: CountingEmbedder
) -> None:
    first = await retrieval.user("ana").add(text_of(PARAGRAPHS))
    embedded = len(embedder.texts)
    again = await retrieval.user("ben").add(text_of(PARAGRAPHS).replace("\n", "\r\n"))
    assert again.document == first.document
    assert (again.chunks_embedded, again.chunks_reused) == (0, first.chunks_embedded)
    assert len(embedder.texts) == embedded


async def test_only_the_chunks_that_are_new_are_embedded(
    retrieval: Retrieval, embedder: CountingEmbedder
) -> None:
    first = await retrieval.user().add(text_of(PARAGRAPHS[:6]))
    embedder.texts.clear()
    second = await retrieval.user().add(text_of(PARAGRAPHS))
    assert first.document.document_id != second.document.document_id
    assert second.chunks_reused >= first.chunks_embedded - 1
    assert second.chunks_embedded == len(embedder.texts) < second.document.chunk_count
    assert second.chunks_embedded + second.chunks_reused == second.document.chunk_count


async def test_many_at_once_add_the_same_content_and_each_chunk_is_embedded_once(
    retrieval: Retrieval, embedder: CountingEmbedder
) -> None:
    users = [retrieval.user(f"user-{number}") for number in range(20)]
    added = await asyncio.gather(*(user.add(text_of(PARAGRAPHS)) for user in users))
    assert len({one.document.document_id for one in added}) == 1
    assert sum(one.chunks_embedded for one in added) == added[0].document.chunk_count
    assert len(embedder.texts) == len(set(embedder.texts)) == added[0].document.chunk_count
    assert all(one.document.state == pb.DOCUMENT_STATE_READY for one in added)


async def test_the_same_content_of_two_tenants_is_two_documents(
    retrieval: Retrieval, embedder: CountingEmbedder
) -> None:
    acme = await retrieval.user(tenant="acme").add(text_of(PARAGRAPHS))
    other = await retrieval.user(tenant="other").add(text_of(PARAGRAPHS))
    assert acme.document.document_id != other.document.document_id
    assert other.chunks_embedded == acme.chunks_embedded


async def test_a_request_id_is_good_for_one_request(retrieval: Retrieval) -> None:
    first = await retrieval.user().add("one text", request_id="r-1")
    again = await retrieval.user().add("one text", request_id="r-1")
    assert again.document == first.document
    refusal = await refusal_of(retrieval.user().add("another text", request_id="r-1"))
    assert isinstance(refusal, AlreadyExists)


async def test_a_bad_document_is_refused_by_field(retrieval: Retrieval) -> None:
    user = retrieval.user()
    calls = {
        "not utf-8": user.add(b"\xff\xfe\x00"),
        "nothing": user.add(b""),
        "only blanks": user.add(" \r\n\t\u2028"),
        "too large": user.add(b"a" * (2 * 1024 * 1024 + 1)),
        "piled marks": user.add("e" + "\u0301\u0327" * 500_000),
        "no format": user.add("text", form=pb.DOCUMENT_FORMAT_UNSPECIFIED),
        "blank name": user.add("text", name=" "),
        "unprintable name": user.add("text", name="a\x00b"),
        "path as a name": user.add("text", name="../../etc/passwd"),
    }
    refused = {case: await refusal_of(call) for case, call in calls.items()}
    assert all(isinstance(error, InvalidArgument) for error in refused.values()), refused
    assert {case: fields_of(error) for case, error in refused.items()} == {
        "not utf-8": ["content"],
        "nothing": ["content"],
        "only blanks": ["content"],
        "too large": ["content"],
        "piled marks": ["content"],
        "no format": ["format"],
        "blank name": ["name"],
        "unprintable name": ["name"],
        "path as a name": ["name"],
    }
    assert await retrieval.archive.is_empty()


async def test_a_file_is_searched_by_its_text_and_one_that_is_broken_is_refused_by_name(
    retrieval: Retrieval,
) -> None:
    user = retrieval.user()
    forms = {
        pb.DOCUMENT_FORMAT_HTML: b"<h1>Storks</h1><p>Storks nest on chimneys.",
        pb.DOCUMENT_FORMAT_PDF: pdf(["Owls hunt at night."]),
        pb.DOCUMENT_FORMAT_DOCX: docx(paragraph("Swans stay together.")),
    }
    for form, data in forms.items():
        refusal = await refusal_of(user.add(data[:20] + b"\0", form=form, name="birds.bin"))
        assert fields_of(refusal) == ["content"]
        assert "birds.bin" in str(refusal)
        added = await user.add(data, form=form, name="birds.bin")
        assert added.document.format == form
    found = [passage.text for passage in await user.search("when do owls hunt?")]
    assert found[0] == "Owls hunt at night."
    assert {"Swans stay together.", "# Storks\n\nStorks nest on chimneys."} == set(found[1:])


async def test_an_unbroken_text_of_the_largest_size_is_added_in_time(retrieval: Retrieval) -> None:
    """The splitter alone would take minutes for it."""
    added = await retrieval.user().add(b"a" * (2 * 1024 * 1024))
    assert added.document.state == pb.DOCUMENT_STATE_READY


async def test_documents_are_listed_by_page_newest_first(retrieval: Retrieval) -> None:
    user = retrieval.user()
    ids = [(await user.add(f"text number {number}")).document.document_id for number in range(7)]
    listed, token = [], ""
    while True:
        page = await user.page(3, token)
        listed += [document.document_id for document in page.documents]
        if not (token := page.next_page_token):
            break
    assert listed == ids[::-1]
    assert not (await retrieval.user("ben").page()).documents


async def test_a_page_token_from_elsewhere_is_refused(retrieval: Retrieval) -> None:
    user = retrieval.user()
    for number in range(2):
        await user.add(f"text number {number}")
    token = (await user.page(1)).next_page_token
    damaged = ("x", "not a token!", token[:-4], token[:-5] + "AAAA=", "B" + token[1:], "é" * 9)
    for bad in damaged:
        refusal = await refusal_of(user.page(1, bad))
        assert isinstance(refusal, InvalidArgument), bad
        assert fields_of(refusal) == ["page_token"], bad
    assert fields_of(await refusal_of(user.page(-1))) == ["page_size"]


async def test_another_owners_document_does_not_exist(retrieval: Retrieval) -> None:
    document_id = (await retrieval.user("ana").add(text_of(PARAGRAPHS))).document.document_id
    for stranger in (retrieval.user("ben"), retrieval.user("ana", tenant="other")):
        refusal = await refusal_of(stranger.get(document_id))
        assert isinstance(refusal, NotFound)
        assert fields_of(refusal) == ["document_id"]
        await stranger.delete(document_id)
    assert (await retrieval.user("ana").get(document_id)).state == pb.DOCUMENT_STATE_READY
    assert await retrieval.user("ana").search("subject 3", document_ids=[document_id])


async def test_a_document_stays_while_another_user_refers_to_it(retrieval: Retrieval) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    document_id = (await ana.add(text_of(PARAGRAPHS))).document.document_id
    await ben.add(text_of(PARAGRAPHS))
    await ana.delete(document_id)
    assert isinstance(await refusal_of(ana.get(document_id)), NotFound)
    assert not await ana.search("subject 3")
    assert await ben.search("subject 3", document_ids=[document_id])


async def test_only_the_chunks_that_nobody_shares_go_with_a_document(
    retrieval: Retrieval,
) -> None:
    user = retrieval.user()
    half = await user.add(text_of(PARAGRAPHS[:6]))
    whole = await user.add(text_of(PARAGRAPHS))
    await user.delete(whole.document.document_id)
    await user.delete(whole.document.document_id)
    await wait_until(lambda: known(retrieval, half.document.document_id))
    passages = await user.search("subject 2", limit=50)
    assert {passage.document_id for passage in passages} == {half.document.document_id}
    assert len(passages) == half.document.chunk_count
    again = await user.add(text_of(PARAGRAPHS))
    assert again.chunks_embedded == whole.chunks_embedded


async def test_documents_belong_to_a_tenant_and_a_user(retrieval: Retrieval) -> None:
    for nobody in (retrieval.user("", tenant="acme"), retrieval.user("ana", tenant="")):
        assert isinstance(await refusal_of(nobody.page()), PermissionDenied)


async def test_a_caller_who_leaves_does_not_stop_the_indexing(retrieval: Retrieval) -> None:
    retrieval.archive.may_finish.clear()
    user = retrieval.user()
    leaving = asyncio.create_task(user.add(text_of(PARAGRAPHS)))
    await retrieval.archive.finishing.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    retrieval.archive.may_finish.set()
    added = await user.add(text_of(PARAGRAPHS))
    assert added.document.state == pb.DOCUMENT_STATE_READY
    assert added.chunks_embedded == 0


async def test_a_document_that_is_only_accepted_can_be_watched_until_it_is_ready(
    retrieval: Retrieval,
) -> None:
    retrieval.archive.may_finish.clear()
    user = retrieval.user()
    accepted = (await user.add(text_of(PARAGRAPHS), accept_only=True)).document
    assert accepted.state == pb.DOCUMENT_STATE_PENDING
    assert not await user.search("subject 3")
    watching = asyncio.create_task(user.watch(accepted.document_id))
    await retrieval.archive.finishing.wait()
    retrieval.archive.may_finish.set()
    *_, ready = await watching
    assert ready.state == pb.DOCUMENT_STATE_READY
    assert await user.search("subject 3")
    assert await user.watch(accepted.document_id) == [ready]
    assert isinstance(await refusal_of(retrieval.user("ben").watch(ready.document_id)), NotFound)


async def test_whether_a_caller_waits_is_part_of_its_request(retrieval: Retrieval) -> None:
    user = retrieval.user()
    await user.add("one text", request_id="r-1", accept_only=True)
    refusal = await refusal_of(user.add("one text", request_id="r-1"))
    assert isinstance(refusal, AlreadyExists)


async def test_a_deletion_is_done_once_for_each_request_id(retrieval: Retrieval) -> None:
    user = retrieval.user()
    one = (await user.add("one text")).document.document_id
    two = (await user.add("two texts")).document.document_id
    await user.delete(one, request_id="d-1")
    assert isinstance(await refusal_of(user.delete(two, request_id="d-1")), AlreadyExists)
    again = (await user.add("one text")).document.document_id
    await user.delete(one, request_id="d-1")
    assert (await user.get(again)).state == pb.DOCUMENT_STATE_READY
    assert (await user.get(two)).state == pb.DOCUMENT_STATE_READY


async def test_nothing_is_left_of_a_document_that_everybody_gave_up(retrieval: Retrieval) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    first = await ana.add(text_of(PARAGRAPHS))
    assert (await ben.add(text_of(PARAGRAPHS))).chunks_embedded == 0
    for user in (ana, ben, ben):
        await user.delete(first.document.document_id)
    await wait_until(retrieval.archive.is_empty)
    assert (await ana.add(text_of(PARAGRAPHS))).chunks_embedded == first.chunks_embedded


async def test_replaced_content_is_seen_by_all_and_only_new_chunks_are_embedded(
    retrieval: Retrieval, embedder: CountingEmbedder
) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    first = await ana.add(text_of(PARAGRAPHS))
    document_id = first.document.document_id
    await ben.add(text_of(PARAGRAPHS))
    embedder.texts.clear()
    changed = [*PARAGRAPHS[:11], "Now it speaks of lighthouses. " * 30]
    replaced = await ana.replace(document_id, text_of(changed))
    assert replaced.document.document_id == document_id
    assert (replaced.document.version, replaced.document.indexed_version) == (2, 2)
    assert 0 < replaced.chunks_embedded == len(embedder.texts) <= 2
    assert replaced.chunks_reused >= first.document.chunk_count - 3
    (found, *_) = await ben.search("lighthouses", document_ids=[document_id])
    assert "lighthouses" in found.text
    old = await ben.search("subject 11", document_ids=[document_id], limit=50)
    assert not any("subject 11" in passage.text for passage in old)
    assert await retrieval.archive.harness.rows("SELECT count(*) FROM document_contents") == [(1,)]


async def test_the_old_content_is_searched_until_the_new_one_is_indexed(
    retrieval: Retrieval,
) -> None:
    user = retrieval.user()
    document_id = (await user.add("Storks nest on chimneys.")).document.document_id
    retrieval.archive.may_finish.clear()
    retrieval.archive.finishing.clear()
    replaced = await user.replace(document_id, "Owls hunt at night.", accept_only=True)
    assert replaced.document.state == pb.DOCUMENT_STATE_PENDING
    assert replaced.document.indexed_version == 1
    await retrieval.archive.finishing.wait()
    assert len(await user.search("birds")) == 1
    retrieval.archive.may_finish.set()
    assert (await user.watch(document_id))[-1].indexed_version == 2


async def test_what_cannot_be_replaced_is_refused_by_field(retrieval: Retrieval) -> None:
    user = retrieval.user()
    document_id = (await user.add("Storks nest on chimneys.")).document.document_id
    stranger = retrieval.user("ben")
    for call, kind, field in (
        (stranger.replace(document_id, "Owls."), NotFound, "document_id"),
        (user.replace("x" * 24, "Owls."), NotFound, "document_id"),
        (user.replace(document_id, " "), InvalidArgument, "content"),
        (user.replace(document_id, "x", form=pb.DOCUMENT_FORMAT_PDF), InvalidArgument, "content"),
    ):
        refusal = await refusal_of(call)
        assert isinstance(refusal, kind)
        assert fields_of(refusal) == [field]
    await user.replace(document_id, "Owls.", request_id="r-1")
    assert isinstance(
        await refusal_of(user.replace(document_id, "Swans.", request_id="r-1")), AlreadyExists
    )
