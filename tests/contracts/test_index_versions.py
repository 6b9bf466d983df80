"""One suite for the registry of index versions, over PostgreSQL and SQLite."""

import asyncio
from dataclasses import replace

import pytest

from maieutic.v1.document_service_pb2 import DOCUMENT_STATE_PENDING, DOCUMENT_STATE_READY
from services.persistence.document_ports import Indexed, IndexedUnder, Work
from services.persistence.errors import VersionBusy, VersionIncomplete, VersionNotFound
from services.persistence.index_ports import IndexStanding, IndexVersion
from tests.contracts.archives import ArchiveHarness
from tests.contracts.test_documents import (
    INDEX,
    ONE,
    added,
    claim_of,
    claimed,
    due,
    indexed,
    registration,
    released,
)
from tests.persistence.stories import TENANT, USER

OLD = IndexVersion(
    version_id="old",
    label=INDEX,
    embedder_url="one://",
    embedder="one",
    dimension=4,
    chunk_characters=1000,
    chunk_overlap=200,
    space="of its own",
)
NEW = replace(OLD, version_id="new", label="embedder-2", embedder="two", space="two@new")


async def registered(harness: ArchiveHarness, *versions: IndexVersion) -> None:
    for version in versions:
        await harness.archive.register_index(version, first_only=False)


async def standing(harness: ArchiveHarness, version: IndexVersion) -> IndexStanding:
    found = await harness.archive.index_versions(counted=True)
    (one,) = (one for one in found if one.version.version_id == version.version_id)
    return one


async def finished(
    harness: ArchiveHarness, *versions: IndexVersion, version: int = 1, worker: str = "w1"
) -> int:
    """Say that the claimed document is indexed under these; returns its state."""
    under = [
        IndexedUnder(
            index_version=one.version_id, chunk_count=3, chunks_embedded=1, chunks_hash="h"
        )
        for one in versions
    ]
    document = await harness.archive.finish_document(
        claim_of(worker), Indexed(version=version, indexes=under)
    )
    assert document is not None
    return document.state


async def test_the_first_version_is_searched_and_has_what_was_indexed_so_before(
    harness: ArchiveHarness,
) -> None:
    await added(harness)
    await indexed(harness)
    await registered(harness, OLD)
    found = await standing(harness, OLD)
    assert (found.current, found.building) == (True, False)
    assert (found.documents, found.total) == (1, 1)
    assert found.version.space == OLD.embedder
    assert not await due(harness)


async def test_a_version_that_only_wants_to_be_the_first_is_not_kept_beside(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD)
    await harness.archive.register_index(NEW, first_only=True)
    assert [one.version.version_id for one in await harness.archive.index_versions(counted=False)]


async def test_a_new_version_has_every_ready_document_indexed_whose_state_stays(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD)
    await added(harness)
    assert (await claimed(harness)).index_versions == ["old"]
    assert await finished(harness, OLD) == DOCUMENT_STATE_READY
    assert (await claimed(harness)).work is Work.NONE
    await registered(harness, NEW)
    assert (await standing(harness, NEW)).building
    assert await due(harness) == [ONE]
    beside = await claimed(harness)
    assert (beside.work, beside.index_versions) == (Work.INDEX, ["new"])
    assert await finished(harness, NEW) == DOCUMENT_STATE_READY
    assert not await due(harness)
    built = await standing(harness, NEW)
    assert (built.building, built.documents, built.total) == (False, 1, 1)
    assert not await due(harness)


async def test_a_document_that_comes_while_a_version_is_built_is_indexed_under_both(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD, NEW)
    await added(harness)
    assert (await claimed(harness)).index_versions == ["old", "new"]
    # The new one could not take it yet.
    assert await finished(harness, OLD) == DOCUMENT_STATE_READY
    assert (await claimed(harness, "w2")).index_versions == ["new"]
    await finished(harness, NEW, worker="w2")
    await due(harness)
    await harness.archive.switch_index("new", force=False)
    assert (await standing(harness, NEW)).current


async def test_a_version_that_lacks_documents_is_switched_to_by_force_alone(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD)
    await added(harness)
    await claimed(harness)
    await finished(harness, OLD)
    await registered(harness, NEW)
    with pytest.raises(VersionIncomplete, match="being built"):
        await harness.archive.switch_index("new", force=False)
    assert (await standing(harness, OLD)).current
    await harness.archive.switch_index("new", force=True)
    document = await harness.archive.get_document(TENANT, USER, ONE)
    assert (document.state, document.indexed_version) == (DOCUMENT_STATE_PENDING, 0)
    assert await harness.archive.switch_index("", force=False) == "old"
    document = await harness.archive.get_document(TENANT, USER, ONE)
    assert document.indexed_version == 1
    assert (await claimed(harness)).index_versions == ["old", "new"]


async def test_work_that_knew_nothing_of_the_searched_version_leaves_a_document_to_be_indexed(
    harness: ArchiveHarness,
) -> None:
    """The pointer moved while a worker was at it: whoever demands the document must not miss it."""
    await registered(harness, OLD)
    await added(harness)
    await claimed(harness)
    await registered(harness, NEW)
    await harness.archive.switch_index("new", force=False)
    assert await finished(harness, OLD) == DOCUMENT_STATE_PENDING
    assert (await harness.archive.get_document(TENANT, USER, ONE)).indexed_version == 0
    assert (await claimed(harness, "w2")).index_versions == ["new", "old"]
    assert await finished(harness, NEW, OLD, worker="w2") == DOCUMENT_STATE_READY


async def test_a_replaced_document_is_missing_until_both_have_its_content(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD, NEW)
    await added(harness)
    await claimed(harness)
    await finished(harness, OLD, NEW)
    await harness.archive.replace_document(
        registration(content=b"other", request_id="replace-1", index_version="old")
    )
    await claimed(harness)
    await finished(harness, OLD, version=2)
    with pytest.raises(VersionIncomplete):
        await harness.archive.switch_index("new", force=False)
    assert (await claimed(harness)).index_versions == ["new"]
    await finished(harness, NEW, version=2)
    await harness.archive.switch_index("new", force=False)


async def test_a_removal_is_from_every_version_and_forgets_what_they_had(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD, NEW)
    await added(harness)
    await claimed(harness)
    await finished(harness, OLD, NEW)
    assert await released(harness)
    removal = await claimed(harness)
    assert (removal.work, removal.index_versions) == (Work.REMOVE, ["old", "new"])
    assert await harness.archive.drop_document(claim_of("w1"))
    assert not await harness.rows("SELECT * FROM document_indexes")


async def test_what_a_version_cannot_take_is_counted_and_tried_again_when_it_is_built_again(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD)
    await added(harness)
    await claimed(harness)
    await finished(harness, OLD)
    await registered(harness, NEW)
    await claimed(harness, "w1", lease=0.0)
    assert (await claimed(harness, "w2", most_attempts=1)).work is Work.NONE
    document = await harness.archive.get_document(TENANT, USER, ONE)
    assert (document.state, document.failure) == (DOCUMENT_STATE_READY, "")
    found = await standing(harness, NEW)
    assert (found.documents, found.failed) == (0, 1)
    assert not await due(harness)
    with pytest.raises(VersionIncomplete, match="could not take"):
        await harness.archive.switch_index("new", force=False)
    await registered(harness, NEW)
    assert await due(harness) == [ONE]


async def test_the_searched_version_is_never_dropped_and_a_dropped_one_gets_no_documents(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD, NEW)
    with pytest.raises(VersionBusy, match="switch first"):
        await harness.archive.drop_index("old", gone=False)
    await harness.archive.drop_index("new", gone=False)
    await added(harness)
    assert (await claimed(harness)).index_versions == ["old"]
    with pytest.raises(VersionBusy, match="dropped"):
        await harness.archive.switch_index("new", force=True)
    with pytest.raises(VersionBusy, match="dropped"):
        await registered(harness, NEW)
    for _ in range(2):
        await harness.archive.drop_index("new", gone=True)
    assert len(await harness.archive.index_versions(counted=False)) == 1


async def test_there_is_nothing_to_go_back_to_before_a_switch_or_after_a_drop(
    harness: ArchiveHarness,
) -> None:
    with pytest.raises(VersionNotFound):
        await harness.archive.switch_index("", force=True)
    await registered(harness, OLD, NEW)
    with pytest.raises(VersionNotFound):
        await harness.archive.switch_index("", force=True)
    await harness.archive.switch_index("new", force=False)
    await harness.archive.drop_index("old", gone=False)
    with pytest.raises(VersionNotFound):
        await harness.archive.switch_index("", force=True)


async def test_a_service_that_knows_of_no_versions_indexes_under_the_searched_one(
    harness: ArchiveHarness,
) -> None:
    await registered(harness, OLD)
    await added(harness)
    await indexed(harness)
    assert (await standing(harness, OLD)).documents == 1


async def test_versions_that_are_registered_at_once_agree_on_the_first(
    harness: ArchiveHarness,
) -> None:
    await asyncio.gather(
        *(harness.archive.register_index(one, first_only=True) for one in (OLD, NEW) * 3),
    )
    (only,) = await harness.archive.index_versions(counted=False)
    assert only.current
