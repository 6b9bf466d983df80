"""One suite for the document registry, over PostgreSQL and SQLite."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from maieutic.bus.v1.bus_pb2 import SessionChanged
from maieutic.v1.document_admin_service_pb2 import DocumentTotals
from maieutic.v1.document_service_pb2 import (
    DOCUMENT_FORMAT_MARKDOWN,
    DOCUMENT_STATE_FAILED,
    DOCUMENT_STATE_PENDING,
    DOCUMENT_STATE_READY,
    INGEST_STAGE_CHUNKED,
    INGEST_STAGE_STORED,
    Document,
    DocumentUsage,
    IngestProgress,
)
from services.persistence.document_ports import (
    Claim,
    Claimed,
    Expiry,
    Indexed,
    Operation,
    Owner,
    Registration,
    Released,
    Scope,
    Work,
)
from services.persistence.errors import (
    DocumentIdTaken,
    DocumentLimitReached,
    DocumentNotFound,
    RequestIdTaken,
)
from services.persistence.model import Place
from tests.contracts.archives import ArchiveHarness
from tests.persistence.stories import TENANT, USER, Story, fact

ONE = "document-1"
MINE = Owner(scope=Scope.USER, name=USER)
BRAND = Owner(scope=Scope.COLLECTION, name="brand-x")
PAIR = Owner(scope=Scope.SET, name="set-1")
INDEX = "embedder-1"
TABLES = (
    "documents",
    "document_contents",
    "document_references",
)
DONE = Indexed(version=1, index_version=INDEX, chunk_count=12, chunks_embedded=7)


def operation(
    request_id: str = "request-1", *, user: str = USER, tenant: str = TENANT, body: bytes = b"body"
) -> Operation:
    return Operation(tenant=tenant, user_id=user, request_id=request_id, request_hash=body)


def registration(
    document_id: str = ONE,
    *,
    user: str = USER,
    request_id: str = "add-1",
    content: bytes = b"# Ships",
    tenant: str = TENANT,
    index_version: str = INDEX,
) -> Registration:
    return Registration(
        operation=operation(request_id, user=user, tenant=tenant, body=b"hash of " + content),
        document=Document(
            document_id=document_id,
            name="Ships\x00",
            format=DOCUMENT_FORMAT_MARKDOWN,
            size=len(content),
            content_hash=content.hex(),
        ),
        content=content,
        index_version=index_version,
    )


def claim_of(worker: str, *, document_id: str = ONE, tenant: str = TENANT) -> Claim:
    return Claim(tenant=tenant, document_id=document_id, id=worker)


async def added(harness: ArchiveHarness, registration_: Registration | None = None) -> Document:
    return (await harness.archive.register_document(registration_ or registration())).document


async def claimed(
    harness: ArchiveHarness,
    worker: str = "w1",
    *,
    document_id: str = ONE,
    lease: float = 60.0,
    most_attempts: int = 5,
) -> Claimed:
    claim = claim_of(worker, document_id=document_id)
    return await harness.archive.claim_document(claim, lease=lease, most_attempts=most_attempts)


async def indexed(harness: ArchiveHarness, worker: str = "w1", document_id: str = ONE) -> Document:
    """Claim the document and say that it is in the index."""
    assert (await claimed(harness, worker, document_id=document_id)).work is Work.INDEX
    claim = claim_of(worker, document_id=document_id)
    document = await harness.archive.finish_document(claim, DONE)
    assert document is not None
    return document


async def released(
    harness: ArchiveHarness, request_id: str = "release-1", user: str = USER
) -> bool:
    """Give up the user's reference; returns whether nobody refers to the document any more."""
    mine = Owner(scope=Scope.USER, name=user)
    given_up = operation(request_id, user=user)
    return bool((await harness.archive.detach_documents(given_up, mine, [ONE])).document_ids)


async def due(harness: ArchiveHarness, lease: float = 0.0) -> list[str]:
    found = await harness.archive.due_documents(lease=lease, limit=10)
    return [document_id for _, document_id in found]


async def nothing_is_left(harness: ArchiveHarness) -> bool:
    return [await harness.rows(f"SELECT * FROM {table}") for table in TABLES] == [[], [], []]  # noqa: S608 - the test's own


async def test_a_document_is_pending_until_its_claim_is_finished(harness: ArchiveHarness) -> None:
    first = await harness.archive.register_document(registration())
    assert first.indexes
    assert first.document.state == DOCUMENT_STATE_PENDING
    assert (first.document.version, first.document.indexed_version) == (1, 0)
    assert first.document.HasField("create_time")
    work = await claimed(harness)
    assert (work.work, work.content) == (Work.INDEX, b"# Ships")
    finished = await harness.archive.finish_document(claim_of("w1"), DONE)
    assert finished is not None
    assert (finished.state, finished.chunk_count) == (DOCUMENT_STATE_READY, 12)
    assert (finished.indexed_version, finished.progress.stage) == (1, INGEST_STAGE_STORED)
    assert await harness.archive.get_document(TENANT, USER, ONE) == finished
    assert (await claimed(harness, "w2")).work is Work.NONE


async def test_the_same_content_is_stored_once_for_all_users(harness: ArchiveHarness) -> None:
    first = await added(harness)
    again = await harness.archive.register_document(
        registration("document-2", user="bob", request_id="add-2")
    )
    assert (again.document, again.indexes) == (first, False)
    assert await harness.rows("SELECT count(*) FROM document_contents") == [(1,)]
    for user in (USER, "bob"):
        assert await harness.archive.get_document(TENANT, user, ONE) == first
    foreign = await added(harness, registration("document-3", tenant="globex"))
    assert foreign.document_id == "document-3"


async def test_a_request_id_is_good_for_one_request_and_answers_as_before(
    harness: ArchiveHarness,
) -> None:
    first = await harness.archive.register_document(registration())
    repeated = await harness.archive.register_document(registration())
    assert (repeated.document, repeated.indexes) == (first.document, True)
    ready = await indexed(harness)
    again = await harness.archive.register_document(registration())
    assert (again.document, again.indexes) == (ready, True)
    with pytest.raises(RequestIdTaken):
        await added(harness, registration("document-2", content=b"other"))
    with pytest.raises(RequestIdTaken):
        await released(harness, "add-1")
    assert await harness.archive.list_documents(TENANT, MINE, before=None, limit=9) == [ready]


async def test_a_repeated_request_does_not_bring_back_what_was_given_up_since(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await released(harness)
    with pytest.raises(DocumentNotFound):
        await added(harness)
    assert not await harness.archive.list_documents(TENANT, MINE, before=None, limit=9)


async def test_a_repeated_release_does_not_take_what_was_added_since(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    assert await released(harness)
    await added(harness, registration(request_id="add-2"))
    assert not await released(harness)
    assert (await harness.archive.get_document(TENANT, USER, ONE)).document_id == ONE


async def test_a_document_id_fits_one_content(harness: ArchiveHarness) -> None:
    await added(harness)
    with pytest.raises(DocumentIdTaken):
        await added(harness, registration(request_id="add-2", content=b"other"))


async def test_documents_of_others_do_not_exist(harness: ArchiveHarness) -> None:
    await added(harness)
    for tenant, user in ((TENANT, "bob"), ("globex", USER)):
        with pytest.raises(DocumentNotFound):
            await harness.archive.get_document(tenant, user, ONE)
        assert (
            await harness.archive.list_documents(
                tenant, Owner(scope=Scope.USER, name=user), before=None, limit=9
            )
            == []
        )
    foreign = claim_of("w1", tenant="globex")
    work = await harness.archive.claim_document(foreign, lease=60, most_attempts=5)
    assert work.work is Work.NONE


async def test_the_last_release_has_the_document_removed(harness: ArchiveHarness) -> None:
    await added(harness)
    await added(harness, registration(user="bob", request_id="add-2"))
    await indexed(harness)
    assert not await released(harness)
    with pytest.raises(DocumentNotFound):
        await harness.archive.get_document(TENANT, USER, ONE)
    assert await released(harness, user="bob")
    with pytest.raises(DocumentNotFound):
        await harness.archive.get_document(TENANT, "bob", ONE)
    assert (await claimed(harness)).work is Work.REMOVE
    assert await harness.archive.drop_document(claim_of("w1"))
    assert await nothing_is_left(harness)
    assert not await released(harness, "release-2", user="bob")
    assert (await claimed(harness)).work is Work.NONE


async def test_content_that_comes_before_the_removal_keeps_its_vectors(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await indexed(harness)
    await released(harness)
    back = await harness.archive.register_document(registration("document-9", request_id="add-2"))
    assert (back.document.document_id, back.indexes) == (ONE, False)
    assert back.document.state == DOCUMENT_STATE_READY
    assert (await claimed(harness)).work is Work.NONE


async def test_content_that_comes_during_the_removal_is_indexed_after_it(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await indexed(harness)
    await released(harness)
    assert (await claimed(harness)).work is Work.REMOVE
    back = await harness.archive.register_document(registration("document-9", request_id="add-2"))
    assert back.indexes
    assert (back.document.state, back.document.indexed_version) == (DOCUMENT_STATE_PENDING, 0)
    assert (await claimed(harness, "w2")).work is Work.HELD
    assert not await harness.archive.drop_document(claim_of("w1"))
    assert (await indexed(harness, "w2")).state == DOCUMENT_STATE_READY


async def test_a_document_released_while_it_is_indexed_is_removed_next(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await claimed(harness)
    await released(harness)
    assert (await claimed(harness, "w2")).work is Work.HELD
    assert await harness.archive.finish_document(claim_of("w1"), DONE)
    assert (await claimed(harness)).work is Work.REMOVE
    assert await harness.archive.drop_document(claim_of("w1"))
    assert await nothing_is_left(harness)


async def test_content_goes_with_the_last_document_that_has_it(harness: ArchiveHarness) -> None:
    await added(harness)
    await added(harness, registration("document-2", request_id="add-2", content=b"other"))
    await released(harness)
    await claimed(harness)
    await harness.archive.drop_document(claim_of("w1"))
    assert await harness.rows("SELECT content FROM document_contents") == [(b"other",)]


async def test_one_worker_at_a_time_has_a_documents_work(harness: ArchiveHarness) -> None:
    await added(harness)
    assert (await claimed(harness, "w1")).work is Work.INDEX
    assert (await claimed(harness, "w2")).work is Work.HELD
    assert (await claimed(harness, "w1")).work is Work.INDEX
    progress = IngestProgress(stage=INGEST_STAGE_CHUNKED, chunks_done=3, chunks_total=9)
    assert await harness.archive.renew_claim(claim_of("w1"), lease=0, progress=progress)
    shown = await harness.archive.get_document(TENANT, USER, ONE)
    assert shown.progress == progress
    assert (await claimed(harness, "w2")).work is Work.INDEX
    assert not await harness.archive.renew_claim(claim_of("w1"), lease=60, progress=progress)
    assert await harness.archive.finish_document(claim_of("w1"), DONE) is None
    await harness.archive.release_claim(claim_of("w1"), pause=0, uncounted=False, problem="")
    assert (await claimed(harness, "w3")).work is Work.HELD
    assert not await harness.archive.drop_document(claim_of("w1"))
    assert await harness.archive.finish_document(claim_of("w2"), DONE)


async def test_of_workers_that_claim_at_once_one_has_the_work(harness: ArchiveHarness) -> None:
    await added(harness)
    works = await asyncio.gather(*(claimed(harness, f"w{number}") for number in range(8)))
    assert sorted(one.work.value for one in works) == ["held"] * 7 + ["index"]


async def test_a_document_that_ends_its_workers_is_given_up_with_the_reason(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    for attempt in range(3):
        assert (await claimed(harness, f"w{attempt}", lease=0, most_attempts=3)).work is Work.INDEX
    assert (await claimed(harness, "w4", most_attempts=3)).work is Work.NONE
    failed = await harness.archive.get_document(TENANT, USER, ONE)
    assert failed.state == DOCUMENT_STATE_FAILED
    assert failed.failure == "indexing was begun 3 times and never ended"
    again = await harness.archive.register_document(registration(request_id="add-2"))
    assert again.indexes
    assert (await indexed(harness, "w5")).failure == ""


async def test_work_that_is_handed_back_waits_for_its_time(harness: ArchiveHarness) -> None:
    await added(harness)
    for worker in ("w1", "w2", "w3"):
        assert (await claimed(harness, worker, most_attempts=1)).work is Work.INDEX
        claim = claim_of(worker)
        await harness.archive.release_claim(claim, pause=0, uncounted=True, problem="index away")
        assert await due(harness) == [ONE]
    assert (await claimed(harness, "w4", most_attempts=1)).work is Work.INDEX
    problem = "bad\x00 luck"
    await harness.archive.release_claim(claim_of("w4"), pause=60, uncounted=False, problem=problem)
    assert (await claimed(harness, "w5", most_attempts=1)).work is Work.HELD
    assert await due(harness) == []


async def test_a_failure_is_kept_until_another_try(harness: ArchiveHarness) -> None:
    await added(harness)
    await claimed(harness)
    failed = await harness.archive.finish_document(
        claim_of("w1"), Indexed(version=1, failure="page 3 is broken")
    )
    assert failed is not None
    assert (failed.state, failed.failure) == (DOCUMENT_STATE_FAILED, "page 3 is broken")
    assert await due(harness) == []
    assert await released(harness)
    assert (await claimed(harness)).work is Work.REMOVE


async def test_a_document_indexed_under_another_version_is_indexed_again(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await indexed(harness)
    newer = registration(request_id="add-2", index_version="embedder-2")
    again = await harness.archive.register_document(newer)
    assert again.indexes
    assert (again.document.state, again.document.indexed_version) == (DOCUMENT_STATE_PENDING, 1)


async def test_work_that_nobody_does_is_handed_to_one_caller_within_a_lease(
    harness: ArchiveHarness,
) -> None:
    for number in range(3):
        await added(
            harness, registration(f"d{number}", request_id=f"r{number}", content=b"%d" % number)
        )
    # Just told to everybody by those who added it.
    assert await due(harness, lease=60.0) == []
    assert sorted(await due(harness)) == ["d0", "d1", "d2"]
    assert await due(harness, lease=60.0) == []
    await claimed(harness, document_id="d0")
    await indexed(harness, document_id="d1")
    assert await due(harness) == ["d2"]


async def test_documents_are_listed_newest_first_and_by_page(harness: ArchiveHarness) -> None:
    for number in range(5):
        await added(
            harness,
            registration(f"document-{number}", request_id=f"r{number}", content=b"%d" % number),
        )
    listed: list[Document] = []
    before: Place | None = None
    while page := await harness.archive.list_documents(TENANT, MINE, before=before, limit=2):
        listed += page
        before = Place(time=page[-1].create_time.ToDatetime(UTC), id=page[-1].document_id)
    places = [(d.create_time.ToNanoseconds(), d.document_id) for d in listed]
    assert len(places) == 5
    assert places == sorted(places, reverse=True)


async def test_adding_and_releasing_at_the_same_time_leaves_no_half_document(
    harness: ArchiveHarness,
) -> None:
    async def come_and_go(user: str) -> None:
        for turn in range(5):
            document = await added(harness, registration(user=user, request_id=f"{user}-{turn}"))
            release = operation(f"release {user}-{turn}", user=user)
            mine = Owner(scope=Scope.USER, name=user)
            await harness.archive.detach_documents(release, mine, [document.document_id])

    async def remove() -> None:
        for _ in range(20):
            if (await claimed(harness)).work is Work.REMOVE:
                await harness.archive.drop_document(claim_of("w1"))

    await asyncio.gather(remove(), *(come_and_go(f"user-{number}") for number in range(4)))
    await remove()
    assert await nothing_is_left(harness)


def replacement(
    content: bytes, *, request_id: str = "replace-1", user: str = USER, document_id: str = ONE
) -> Registration:
    return registration(document_id, user=user, request_id=request_id, content=content)


async def test_replaced_content_is_a_new_version_of_the_same_document(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await added(harness, registration(user="bob", request_id="add-2"))
    await indexed(harness)
    replaced = await harness.archive.replace_document(replacement(b"# Boats"))
    assert replaced.indexes
    assert (replaced.document.document_id, replaced.document.version) == (ONE, 2)
    assert (replaced.document.state, replaced.document.indexed_version) == (
        DOCUMENT_STATE_PENDING,
        1,
    )
    assert await harness.archive.get_document(TENANT, "bob", ONE) == replaced.document
    repeated = await harness.archive.replace_document(replacement(b"# Boats"))
    assert (repeated.document, repeated.indexes) == (replaced.document, True)
    assert (await claimed(harness)).content == b"# Boats"
    done = Indexed(version=2, index_version=INDEX, chunk_count=3, chunks_hash="abc")
    finished = await harness.archive.finish_document(claim_of("w1"), done)
    assert finished is not None
    assert (finished.state, finished.indexed_version) == (DOCUMENT_STATE_READY, 2)
    assert await harness.rows("SELECT content FROM document_contents") == [(b"# Boats",)]


async def test_content_that_was_replaced_away_makes_a_document_of_its_own(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await harness.archive.replace_document(replacement(b"# Boats"))
    again = await added(harness, registration("document-2", request_id="add-2"))
    assert again.document_id == "document-2"
    other = await added(harness, registration("document-3", request_id="add-3", content=b"# Boats"))
    assert other.document_id == ONE


async def test_two_documents_may_come_to_have_the_same_content(harness: ArchiveHarness) -> None:
    await added(harness)
    await added(harness, registration("document-2", request_id="add-2", content=b"# Boats"))
    await harness.archive.replace_document(replacement(b"# Boats"))
    assert await harness.rows("SELECT content FROM document_contents") == [(b"# Boats",)]
    await released(harness)
    await claimed(harness)
    await harness.archive.drop_document(claim_of("w1"))
    assert (await claimed(harness, document_id="document-2")).content == b"# Boats"


async def test_a_version_that_was_replaced_while_it_was_indexed_is_followed_by_the_next(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await claimed(harness)
    await harness.archive.replace_document(replacement(b"# Boats"))
    assert (await claimed(harness, "w2")).work is Work.HELD
    first = await harness.archive.finish_document(claim_of("w1"), DONE)
    assert first is not None
    assert (first.state, first.indexed_version) == (DOCUMENT_STATE_PENDING, 1)
    assert (await claimed(harness, "w2")).content == b"# Boats"
    late = await harness.archive.finish_document(
        claim_of("w2"), Indexed(version=1, failure="of the one before")
    )
    assert late is not None
    assert (late.state, late.failure) == (DOCUMENT_STATE_PENDING, "")


async def test_the_same_content_again_replaces_nothing(harness: ArchiveHarness) -> None:
    await added(harness)
    ready = await indexed(harness)
    same = await harness.archive.replace_document(replacement(b"# Ships"))
    assert (same.document, same.indexes) == (ready, False)
    assert (await claimed(harness)).work is Work.NONE


async def test_only_those_who_refer_to_a_document_replace_its_content(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    with pytest.raises(DocumentNotFound):
        await harness.archive.replace_document(replacement(b"# Boats", user="bob"))
    with pytest.raises(DocumentNotFound):
        await harness.archive.replace_document(replacement(b"# Boats", document_id="document-2"))
    with pytest.raises(RequestIdTaken):
        await harness.archive.replace_document(replacement(b"# Boats", request_id="add-1"))


async def test_what_the_index_must_hold_is_listed_by_tenant_and_document(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await added(harness, registration("document-2", request_id="add-2", content=b"other"))
    await added(harness, registration("document-3", tenant="globex"))
    await claimed(harness)
    done = Indexed(version=1, index_version=INDEX, chunks_hash="abc")
    await harness.archive.finish_document(claim_of("w1"), done)
    assert await harness.archive.document_tenants(after="", limit=9) == [TENANT, "globex"]
    assert await harness.archive.document_tenants(after=TENANT, limit=9) == ["globex"]
    one, two = await harness.archive.indexed_documents(TENANT, after="", limit=9)
    assert (one.document_id, one.changing, one.indexed_version) == (ONE, False, 1)
    assert (one.chunks_hash, one.content_hash) == ("abc", registration().document.content_hash)
    assert (two.document_id, two.changing, two.indexed_version) == ("document-2", True, 0)
    assert await harness.archive.indexed_documents(TENANT, after=ONE, limit=1) == [two]
    await harness.archive.reindex_document(TENANT, ONE)
    assert (await claimed(harness)).work is Work.INDEX


async def test_a_document_stays_while_a_set_or_a_collection_refers_to_it(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await harness.archive.attach_documents(operation("attach-1"), BRAND, [ONE])
    await harness.archive.attach_documents(operation("attach-2"), PAIR, [ONE])
    assert not await released(harness)
    assert not (await harness.archive.detach_documents(operation("d-1"), BRAND, [ONE])).document_ids
    gone = await harness.archive.detach_documents(operation("d-2"), PAIR, [])
    assert gone.document_ids == [ONE]
    assert (await claimed(harness)).work is Work.REMOVE


async def test_a_collections_documents_are_every_users_and_a_sets_are_not(
    harness: ArchiveHarness,
) -> None:
    document = await added(harness)
    await harness.archive.attach_documents(operation("attach-1"), PAIR, [ONE])
    with pytest.raises(DocumentNotFound):
        await harness.archive.get_document(TENANT, "bob", ONE)
    await harness.archive.attach_documents(operation("attach-2"), BRAND, [ONE])
    assert await harness.archive.get_document(TENANT, "bob", ONE) == document
    with pytest.raises(DocumentNotFound):
        await harness.archive.get_document("globex", "bob", ONE)
    for owner in (BRAND, PAIR):
        listed = await harness.archive.list_documents(TENANT, owner, before=None, limit=9)
        assert listed == [document]
        assert not await harness.archive.list_documents("globex", owner, before=None, limit=9)


async def test_all_documents_are_attached_or_none(harness: ArchiveHarness) -> None:
    await added(harness)
    with pytest.raises(DocumentNotFound):
        await harness.archive.attach_documents(operation(), BRAND, [ONE, "document-2"])
    bobs = operation("attach-2", user="bob")
    with pytest.raises(DocumentNotFound):
        await harness.archive.attach_documents(bobs, BRAND, [ONE])
    assert not await harness.archive.list_documents(TENANT, BRAND, before=None, limit=9)


async def test_attaching_and_detaching_are_done_once_for_each_request(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    for _ in range(2):
        await harness.archive.attach_documents(operation("attach-1"), BRAND, [ONE])
    await harness.archive.detach_documents(operation("detach-1"), BRAND, [ONE])
    await harness.archive.attach_documents(operation("attach-1"), BRAND, [ONE])
    assert not await harness.archive.list_documents(TENANT, BRAND, before=None, limit=9)
    await harness.archive.attach_documents(operation("attach-2"), BRAND, [ONE])
    await harness.archive.detach_documents(operation("detach-1"), BRAND, [ONE])
    assert await harness.archive.list_documents(TENANT, BRAND, before=None, limit=9)
    other = operation("attach-2", body=b"other")
    with pytest.raises(RequestIdTaken):
        await harness.archive.detach_documents(other, BRAND, [ONE])


async def test_a_release_whose_answer_was_lost_tells_again_what_is_to_be_removed(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    assert await released(harness)
    assert await released(harness)
    nothing = await harness.archive.detach_documents(operation("d-9"), BRAND, ["document-9"])
    assert nothing == Released(document_ids=[], revision=nothing.revision)


async def test_every_change_has_a_higher_revision_and_work_keeps_that_of_its_first_cause(
    harness: ArchiveHarness,
) -> None:
    first = await harness.archive.register_document(registration())
    attached = await harness.archive.attach_documents(operation("attach-1"), BRAND, [ONE])
    replaced = await harness.archive.replace_document(replacement(b"# Boats"))
    assert first.revision < attached < replaced.revision
    assert replaced.document.revision == first.document.revision == first.revision
    claim = Indexed(version=2, index_version=INDEX)
    await claimed(harness)
    await harness.archive.finish_document(claim_of("w1"), claim)
    again = await harness.archive.replace_document(replacement(b"# Rafts", request_id="replace-2"))
    assert again.document.revision == again.revision > replaced.revision


async def test_a_tenant_has_no_more_documents_and_bytes_than_it_may(
    harness: ArchiveHarness,
) -> None:
    def more(
        document_id: str, content: bytes, *, most_documents: int = 0, most_bytes: int = 0
    ) -> Registration:
        made = registration(document_id, request_id=f"add {document_id}", content=content)
        return replace(made, most_documents=most_documents, most_bytes=most_bytes)

    await added(harness, more("d1", b"12345", most_documents=1, most_bytes=5))
    with pytest.raises(DocumentLimitReached, match="documents_per_tenant is reached: at most 1 "):
        await added(harness, more("d2", b"6", most_documents=1))
    with pytest.raises(DocumentLimitReached, match="bytes_per_tenant"):
        await added(harness, more("d2", b"6", most_bytes=5))
    larger = replace(more("d1", b"123456"), operation=operation("replace-1"), most_bytes=5)
    with pytest.raises(DocumentLimitReached, match="bytes_per_tenant"):
        await harness.archive.replace_document(larger)
    same = more("d3", b"12345", most_documents=1, most_bytes=5)
    assert (await added(harness, same)).document_id == "d1"
    await added(harness, registration("d4", tenant="globex", content=b"7"))
    mine = [row for (row,) in await harness.rows("SELECT document_id FROM documents")]
    assert sorted(mine) == ["d1", "d4"]


async def aged(harness: ArchiveHarness, days: float, owner: str) -> None:
    """Have an owner's references last used so many days ago."""
    async with harness.database.writing() as connection:
        await connection.fetch(
            "UPDATE document_references SET last_used_time = now() - make_interval(secs => $1)"
            " WHERE owner = $2",
            days * 86_400.0,
            owner,
        )


WEEK = Expiry(user=7 * 86_400.0, document_set=30 * 86_400.0, collection=None)


async def test_what_is_not_used_for_long_goes_after_the_time_of_its_scope(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await added(harness, registration("document-2", request_id="add-2", content=b"other"))
    await harness.archive.attach_documents(operation("attach-1"), PAIR, [ONE])
    await harness.archive.attach_documents(operation("attach-2"), BRAND, ["document-2"])
    for owner, days in ((USER, 8.0), (PAIR.name, 20.0), (BRAND.name, 1000.0)):
        await aged(harness, days, owner)
    found = await harness.archive.expired_references(WEEK, 10)
    assert [(one.owner, one.document_id) for one in found] == [(MINE, ONE), (MINE, "document-2")]
    assert await harness.archive.drop_expired(found) == []
    await aged(harness, 31.0, PAIR.name)
    (expired,) = await harness.archive.expired_references(WEEK, 10)
    assert (expired.tenant, expired.owner) == (TENANT, PAIR)
    assert await harness.archive.drop_expired([expired]) == [(TENANT, ONE)]
    assert (await claimed(harness)).work is Work.REMOVE
    assert not await harness.archive.expired_references(WEEK, 10)


async def test_what_is_used_meanwhile_stays(harness: ArchiveHarness) -> None:
    await added(harness)
    await aged(harness, 8.0, USER)
    found = await harness.archive.expired_references(WEEK, 10)
    await harness.archive.touch_documents(TENANT, MINE, [ONE])
    assert await harness.archive.drop_expired(found) == []
    assert not await harness.archive.expired_references(WEEK, 10)
    await aged(harness, 8.0, USER)
    await harness.archive.touch_documents(TENANT, MINE, ["document-2"])
    assert len(await harness.archive.expired_references(WEEK, 10)) == 1
    await harness.archive.touch_documents(TENANT, MINE, [])
    assert not await harness.archive.expired_references(WEEK, 10)
    await aged(harness, 8.0, USER)
    await added(harness, registration(request_id="add-2"))
    assert not await harness.archive.expired_references(WEEK, 10)


async def test_requests_are_forgotten_after_a_day(harness: ArchiveHarness) -> None:
    await added(harness)
    async with harness.database.writing() as connection:
        await connection.fetch(
            "UPDATE document_operations SET create_time = now() - make_interval(secs => $1)",
            90_000.0,
        )
    await added(harness, registration(request_id="add-2"))
    await harness.archive.drop_expired([])
    assert await harness.rows("SELECT request_id FROM document_operations") == [("add-2",)]


async def test_documents_are_counted_with_what_sharing_saves(harness: ArchiveHarness) -> None:
    assert await harness.archive.document_totals(active=60.0) == DocumentTotals()
    await added(harness)
    await added(harness, registration(user="bob", request_id="add-2"))
    await indexed(harness)
    await added(harness, registration("d2", request_id="add-3", content=b"other"))
    await added(harness, registration("d3", request_id="add-4", content=b"third"))
    await claimed(harness, document_id="d3")
    broken = claim_of("w1", document_id="d3")
    await harness.archive.finish_document(broken, Indexed(version=1, failure="broken"))
    await aged(harness, 2.0, USER)
    assert await harness.archive.document_totals(active=60.0) == DocumentTotals(
        documents=3,
        pending=1,
        failed=1,
        active=1,
        references=4,
        bytes=7 + 5 + 5,
        chunks=12,
        bytes_saved=7,
        embeddings_saved=2 * 12 - 7,
    )


def drawing(story: Story, *document_ids: str, revision: int) -> SessionChanged:
    """Tell of a session that draws from these documents."""
    changed = story.changed(revision)
    changed.session.document_ids.extend(document_ids)
    return changed


async def sessions_of(harness: ArchiveHarness, *document_ids: str) -> list[int]:
    return [
        (await harness.archive.document_usage(TENANT, one)).session_count for one in document_ids
    ]


async def test_a_document_counts_the_sessions_that_draw_from_it(harness: ArchiveHarness) -> None:
    await added(harness)
    await added(harness, registration("d2", request_id="add-2", content=b"other"))
    first, second = Story("one"), Story("two")
    await harness.archive.apply([fact(drawing(first, ONE, "d2", revision=2))])
    await harness.archive.apply([fact(second.accepted(1)), fact(drawing(second, ONE, revision=11))])
    assert await sessions_of(harness, ONE, "d2") == [2, 1]
    # Told late, and again.
    await harness.archive.apply([fact(drawing(first, revision=1))])
    await harness.archive.apply([fact(drawing(first, ONE, "d2", revision=2))])
    assert await sessions_of(harness, ONE, "d2") == [2, 1]
    await harness.archive.apply([fact(drawing(first, "d2", revision=30))])
    assert await sessions_of(harness, ONE, "d2") == [1, 1]
    await harness.archive.apply([fact(first.deleted()), fact(drawing(first, ONE, revision=40))])
    assert await sessions_of(harness, ONE, "d2") == [1, 0]


async def test_who_has_a_document_is_counted(harness: ArchiveHarness) -> None:
    assert await harness.archive.document_usage(TENANT, ONE) == DocumentUsage()
    await added(harness)
    await harness.archive.attach_documents(operation("attach-1"), BRAND, [ONE])
    await indexed(harness)
    await aged(harness, 3.0, USER)
    await aged(harness, 2.0, BRAND.name)
    usage = await harness.archive.document_usage(TENANT, ONE)
    assert (usage.owner_count, usage.session_count, usage.index_version) == (2, 0, INDEX)
    age = datetime.now(UTC) - usage.last_used_time.ToDatetime(UTC)
    assert timedelta(days=1.9) < age < timedelta(days=2.1)
    assert await harness.archive.document_usage("globex", ONE) == DocumentUsage()
