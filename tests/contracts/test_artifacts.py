"""The files that agents make, on both databases."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from maieutic.archive.v1.artifact_store_service_pb2 import PutArtifactRequest
from maieutic.bus.v1.bus_pb2 import TurnFinished
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.turn_service_pb2 import TURN_STATE_CANCELLED, TURN_STATE_ROLLED_BACK
from services.persistence.artifact_ports import ArtifactLimits, NewArtifact
from services.persistence.artifacts import new_artifact
from services.persistence.errors import (
    ArtifactLimitReached,
    SessionNotFound,
    SessionNotYetArchived,
    TurnHasEnded,
)
from services.persistence.model import Place
from services.runtime.errors import InvalidArgument
from tests.contracts.archives import ArchiveHarness
from tests.persistence.stories import Story, fact

LIMITS = ArtifactLimits()
START = Place(time=datetime.fromtimestamp(0, UTC), id="")
DAY = 86_400.0


def made(story: Story, path: str = "src/main.py", **changes: Any) -> NewArtifact:
    request = PutArtifactRequest(
        tenant=story.tenant,
        user_id=story.user,
        session_id=story.session_id,
        turn_id=story.turn_id(1),
        fence=1,
        path=path,
        media_type="text/x-python",
        content=b"print('ahoy')\n",
    )
    request.MergeFrom(PutArtifactRequest(**changes))
    return new_artifact(request, LIMITS)


async def put(harness: ArchiveHarness, new: NewArtifact) -> Artifact:
    return await harness.archive.put_artifact(new, LIMITS)


async def begun(harness: ArchiveHarness, name: str = "ships") -> Story:
    """Return a session with a turn that runs."""
    story = Story(name)
    await harness.archive.apply([fact(story.accepted())])
    return story


def ended(story: Story, *named: Artifact, number: int = 1, **changes: Any) -> TurnFinished:
    finished = story.finished(number, **changes)
    finished.outcome.artifacts.extend(named)
    return finished


async def listed(harness: ArchiveHarness, story: Story) -> list[str]:
    found = await harness.archive.artifacts_of_session(story.session_id, after=START, limit=100)
    return [artifact.path for artifact in found]


async def stored(harness: ArchiveHarness) -> set[str]:
    return {row[0] for row in await harness.rows("SELECT path FROM artifacts")}


async def aged(harness: ArchiveHarness, seconds: float) -> None:
    """Let all files be that old."""
    statement = "UPDATE artifacts SET create_time = now() - make_interval(secs => $1)"
    async with harness.database.writing() as connection:
        await connection.write(statement, [(seconds,)])


async def test_a_file_comes_back_with_its_bytes(harness: ArchiveHarness) -> None:
    story, content = await begun(harness), bytes(range(256)) * 4096
    artifact = await put(harness, made(story, "a/b.bin", media_type="image/png", content=content))
    assert len(artifact.artifact_id) == 48
    assert artifact.artifact_id[:24] == story.turn_id(1)[:24]
    assert (artifact.session_id, artifact.turn_id) == (story.session_id, story.turn_id(1))
    assert (artifact.path, artifact.media_type) == ("a/b.bin", "image/png")
    assert (artifact.size_bytes, len(artifact.sha256)) == (1024 * 1024, 64)
    assert artifact.create_time.ToMicroseconds() % 1000 == 0
    found = await harness.archive.artifact(artifact.artifact_id, with_content=True)
    assert found is not None
    assert (found.artifact, found.content) == (artifact, content)
    known = await harness.archive.artifact(artifact.artifact_id, with_content=False)
    assert known is not None
    assert (known.artifact, known.content) == (artifact, b"")
    assert await harness.archive.artifact("a" * 48, with_content=True) is None


async def test_a_put_again_changes_nothing_and_other_bytes_are_another_file(
    harness: ArchiveHarness,
) -> None:
    story = await begun(harness)
    first, *again = await asyncio.gather(*(put(harness, made(story)) for _ in range(4)))
    assert again == [first] * 3
    assert await put(harness, made(story, fence=2)) == first
    other = await put(harness, made(story, content=b"pass\n", fence=2))
    assert other.artifact_id != first.artifact_id
    kept = await harness.archive.artifact(first.artifact_id, with_content=True)
    assert kept is not None
    assert kept.content == b"print('ahoy')\n"


async def test_a_late_worker_overwrites_nothing_that_the_outcome_names(
    harness: ArchiveHarness,
) -> None:
    story = await begun(harness)
    named = await put(harness, made(story, fence=2))
    await put(harness, made(story, content=b"late\n", fence=1))
    await harness.archive.apply([fact(ended(story, named))])
    found = await harness.archive.artifact(named.artifact_id, with_content=True)
    assert found is not None
    assert found.content == b"print('ahoy')\n"


async def test_nothing_is_added_to_a_turn_that_has_ended(harness: ArchiveHarness) -> None:
    story = await begun(harness)
    named = await put(harness, made(story))
    await harness.archive.apply([fact(ended(story, named))])
    with pytest.raises(TurnHasEnded):
        await put(harness, made(story, "late.py"))
    assert await put(harness, made(story, fence=9)) == named


async def test_what_the_outcome_names_is_listed_oldest_first_and_in_pages(
    harness: ArchiveHarness,
) -> None:
    story = await begun(harness)
    files = [await put(harness, made(story, f"{number}.py")) for number in range(5)]
    assert await listed(harness, story) == []
    await harness.archive.apply([fact(ended(story, *files[:4]))])
    await harness.archive.apply([fact(ended(story, *files[:4]))])
    order = sorted(files[:4], key=lambda one: (one.create_time.ToMicroseconds(), one.artifact_id))
    assert await listed(harness, story) == [one.path for one in order]
    pages, after = [], START
    while found := await harness.archive.artifacts_of_session(
        story.session_id, after=after, limit=3
    ):
        pages.append([one.path for one in found])
        after = Place(time=found[-1].create_time.ToDatetime(UTC), id=found[-1].artifact_id)
    assert pages == [[one.path for one in order[:3]], [order[3].path]]


async def test_files_of_one_moment_are_sorted_by_code_points_in_any_language(
    languages: ArchiveHarness,
) -> None:
    """So the session service sorts them, whose page may end between them."""
    story = await begun(languages)
    files = [await put(languages, made(story, f"{number}.py")) for number in range(8)]
    await languages.archive.apply([fact(ended(story, *files))])
    await aged(languages, 60)
    pages, after = [], START
    while found := await languages.archive.artifacts_of_session(
        story.session_id, after=after, limit=1
    ):
        pages += [one.artifact_id for one in found]
        after = Place(time=found[-1].create_time.ToDatetime(UTC), id=found[-1].artifact_id)
    assert pages == sorted(one.artifact_id for one in files)


async def test_an_outcome_that_came_too_late_names_nothing(harness: ArchiveHarness) -> None:
    story = await begun(harness)
    first, late = await put(harness, made(story, "a")), await put(harness, made(story, "b"))
    await harness.archive.apply([fact(ended(story, first))])
    await harness.archive.apply([fact(ended(story, late, fence=2))])
    assert await listed(harness, story) == ["a"]


async def test_an_outcome_names_files_of_its_own_turn_only(harness: ArchiveHarness) -> None:
    story, other = await begun(harness), await begun(harness, "boats")
    foreign = await put(harness, made(other))
    await harness.archive.apply([fact(ended(story, foreign))])
    assert await listed(harness, other) == []


async def test_what_was_rolled_back_has_no_files(harness: ArchiveHarness) -> None:
    story = await begun(harness)
    artifact = await put(harness, made(story))
    await harness.archive.apply([fact(ended(story, artifact, state=TURN_STATE_ROLLED_BACK))])
    assert await listed(harness, story) == []


async def test_files_go_with_their_session_at_once_and_for_good(harness: ArchiveHarness) -> None:
    story, other = await begun(harness), await begun(harness, "boats")
    artifact = await put(harness, made(story))
    await put(harness, made(other, "kept.py"))
    await harness.archive.apply([fact(ended(story, artifact))])
    await harness.archive.apply([fact(story.deleted())])
    assert await stored(harness) == {"kept.py"}
    with pytest.raises(SessionNotFound):
        await put(harness, made(story))


async def test_a_put_and_the_deletion_of_its_session_leave_nothing_behind(
    harness: ArchiveHarness,
) -> None:
    stories = [await begun(harness, f"s{number}") for number in range(8)]
    await asyncio.gather(
        *(put(harness, made(story)) for story in stories),
        *(harness.archive.apply([fact(story.deleted())]) for story in stories),
        return_exceptions=True,
    )
    assert await stored(harness) == set()


async def test_a_put_waits_for_the_deletion_that_came_before_it(harness: ArchiveHarness) -> None:
    story = await begun(harness)
    async with harness.database.writing() as connection:
        bury = "UPDATE sessions SET delete_time = now() WHERE session_id = $1"
        await connection.write(bury, [(story.session_id,)])
        putting = asyncio.create_task(put(harness, made(story)))
        # Time for a put that does not wait, of which the deletion would know nothing.
        await asyncio.wait([putting], timeout=0.2)
        await connection.write("DELETE FROM artifacts WHERE session_id = $1", [(story.session_id,)])
    with pytest.raises(SessionNotFound):
        await putting
    assert await stored(harness) == set()


async def test_a_session_that_is_not_known_yet_is_asked_for_again(harness: ArchiveHarness) -> None:
    with pytest.raises(SessionNotYetArchived) as raised:
        await put(harness, made(Story("unheard")))
    assert raised.value.retry_after == 1.0


async def test_nobody_else_puts_into_a_session_and_no_other_turn(harness: ArchiveHarness) -> None:
    story, other = await begun(harness), await begun(harness, "boats")
    for changes in (
        {"tenant": "other"},
        {"user_id": "bob"},
        {"turn_id": other.turn_id(1)},
    ):
        with pytest.raises(SessionNotFound):
            await put(harness, made(story, **changes))
    assert await stored(harness) == set()


async def test_files_that_no_outcome_names_go_after_their_time(harness: ArchiveHarness) -> None:
    story, cancelled, running = [await begun(harness, name) for name in ("a", "b", "c")]
    named = await put(harness, made(story, "named.py"))
    for of, path in ((story, "draft.py"), (cancelled, "cut.py"), (running, "runs.py")):
        await put(harness, made(of, path))
    await harness.archive.apply(
        [fact(ended(story, named)), fact(ended(cancelled, state=TURN_STATE_CANCELLED))]
    )
    sweep = harness.archive.sweep_artifacts
    assert await sweep(older_than=DAY, turns=10) == 0
    await aged(harness, DAY + 1)
    assert await sweep(older_than=DAY, turns=10) == 2
    assert await stored(harness) == {"named.py", "runs.py"}


async def test_files_of_a_turn_that_nobody_remembers_go_too(harness: ArchiveHarness) -> None:
    story = await begun(harness)
    await put(harness, made(story, turn_id=story.turn_id(7)))
    await aged(harness, DAY + 1)
    assert await harness.archive.sweep_artifacts(older_than=DAY, turns=10) == 1


async def test_a_named_file_that_the_version_before_did_not_mark_stays(
    harness: ArchiveHarness,
) -> None:
    story = await begun(harness)
    named = await put(harness, made(story))
    await harness.archive.apply([fact(ended(story, named))])
    async with harness.database.writing() as connection:
        await connection.write(
            "UPDATE artifacts SET named = false WHERE session_id = $1", [(story.session_id,)]
        )
    await aged(harness, DAY + 1)
    assert await harness.archive.sweep_artifacts(older_than=DAY, turns=10) == 0
    assert await listed(harness, story) == ["src/main.py"]


async def test_an_attempt_has_limits_and_the_next_one_has_them_anew(
    harness: ArchiveHarness,
) -> None:
    story, archive = await begun(harness), harness.archive
    few = ArtifactLimits(files=2, total_bytes=30)
    for path in ("a", "b"):
        await archive.put_artifact(made(story, path), few)
    await archive.put_artifact(made(story, "b"), few)  # is there
    with pytest.raises(ArtifactLimitReached, match=r"artifacts\.files"):
        await archive.put_artifact(made(story, "c"), few)
    await archive.put_artifact(made(story, "c", fence=2), few)
    with pytest.raises(ArtifactLimitReached, match=r"artifacts\.total_bytes"):
        await archive.put_artifact(made(story, "d", fence=2, content=b"x" * 17), few)
    await archive.put_artifact(made(story, "d", fence=2, content=b"x" * 16), few)


async def test_what_an_earlier_attempt_has_put_counts_once_it_is_put_again(
    harness: ArchiveHarness,
) -> None:
    story, archive, few = await begun(harness), harness.archive, ArtifactLimits(files=2)
    for fence in (1, 2):
        for path in ("a", "b"):
            await archive.put_artifact(made(story, path, fence=fence), few)
    with pytest.raises(ArtifactLimitReached):
        await archive.put_artifact(made(story, "c", fence=2), few)


async def test_no_two_files_of_an_attempt_are_in_each_others_way(harness: ArchiveHarness) -> None:
    story = await begun(harness)
    await put(harness, made(story, "src/main.py"))
    for fence, path in enumerate(("SRC/main.py", "src/MAIN.PY", "src", "src/main.py/x"), start=2):
        with pytest.raises(InvalidArgument, match=r"src/main\.py"):
            await put(harness, made(story, path))
        await put(harness, made(story, path, fence=fence))
