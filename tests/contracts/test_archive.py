"""One suite for the archive, over PostgreSQL and SQLite."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from maieutic.bus.v1.bus_pb2 import SessionChanged, TurnAccepted, TurnFinished
from maieutic.v1 import turn_service_pb2 as turn_pb
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import (
    SESSION_ORDER_LAST_USED_FIRST,
    SESSION_ORDER_NEWEST_FIRST,
    SESSION_ORDER_OLDEST_FIRST,
    Session,
    SessionOrder,
)
from maieutic.v1.specification_pb2 import RESOLUTION_KIND_REPLACE, Conflict, Specification
from maieutic.v1.turn_service_pb2 import Findings
from services.persistence.adapters.sql import moment
from services.persistence.errors import (
    MessageNotFound,
    Refused,
    SessionNotFound,
    Unreadable,
)
from services.persistence.model import Applied, Place
from services.persistence.ports import Snapshot
from services.runtime.server import MEBIBYTE
from tests.contracts.archives import ArchiveHarness
from tests.persistence.stories import START, TENANT, USER, Story, fact

# --- turns --------------------------------------------------------------------------------------


async def test_a_finished_turn_is_kept_with_all_that_was_said(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.changed()), fact(story.accepted())])
    await harness.archive.apply([fact(story.finished(text="Buoyancy."))])
    turns = await harness.rows("SELECT turn_id, session_id, state, attempts, lane FROM turns")
    assert turns == [(story.turn_id(1), story.session_id, "COMPLETED", 1, "interactive")]
    said = await harness.rows("SELECT position, author, text FROM messages ORDER BY position")
    assert said == [(1, "USER", "Why do ships float?"), (2, "AGENT", "Buoyancy.")]
    usage = await harness.rows(
        "SELECT step, input_tokens, output_tokens FROM usage ORDER BY step_no"
    )
    assert usage == [("search", 7, 0), ("answer", 0, 9)]
    kinds = await harness.rows("SELECT kind FROM events ORDER BY kind")
    assert kinds == [("session.changed",), ("turn.accepted",), ("turn.finished",)]


async def test_what_was_applied_is_told_for_the_session_service(harness: ArchiveHarness) -> None:
    story = Story("one")
    assert await harness.archive.apply([fact(story.accepted())]) == Applied(
        revisions={story.session_id: 10}, accepted=(story.turn_id(1),)
    )
    assert await harness.archive.apply([fact(story.finished())]) == Applied(
        finished=(story.finished(),), revisions={story.session_id: 15}
    )


async def test_facts_applied_again_change_nothing(harness: ArchiveHarness) -> None:
    story = Story("one")
    batch = [fact(story.changed()), fact(story.accepted()), fact(story.finished())]
    first = await harness.archive.apply(batch)
    before = await _everything(harness)
    assert await harness.archive.apply(batch) == first
    assert await harness.archive.apply([*batch, *batch]) == first
    assert await _everything(harness) == before


async def test_the_first_outcome_committed_wins_over_later_ones(harness: ArchiveHarness) -> None:
    story = Story("one")
    first = story.finished(text="First.", fence=1)
    late = story.finished(text="Second.", fence=2, state=turn_pb.TURN_STATE_FAILED)
    await harness.archive.apply([fact(first)])
    before = await _everything(harness)
    applied = await harness.archive.apply([fact(late)])
    assert applied.finished == (first,)
    assert await _everything(harness) == before


async def test_of_two_outcomes_in_one_batch_the_first_wins(harness: ArchiveHarness) -> None:
    story = Story("one")
    first, late = story.finished(text="First."), story.finished(text="Second.", fence=2)
    applied = await harness.archive.apply([fact(first), fact(late)])
    assert applied.finished == (first,)
    turn = await harness.archive.get_turn(story.turn_id(1), "")
    assert turn.finished == first
    assert [m.text for m in await _messages(harness, story)] == ["First.", "Why do ships float?"]


async def test_of_outcomes_committed_at_the_same_time_every_writer_hears_the_same(
    harness: ArchiveHarness,
) -> None:
    stories = [Story(f"race-{number}") for number in range(20)]

    async def write(fence: int) -> Applied:
        ordered = stories if fence % 2 else list(reversed(stories))
        outcomes = [story.finished(text=f"by {fence}", fence=fence) for story in ordered]
        return await harness.archive.apply([fact(outcome) for outcome in outcomes])

    applied = await asyncio.gather(*(write(fence) for fence in range(1, 7)))
    heard: list[set[int]] = []
    for story in stories:
        row = (await harness.archive.get_turn(story.turn_id(1), "")).finished
        assert row is not None
        told = [f for each in applied for f in each.finished if f.job.turn_id == row.job.turn_id]
        assert told == [row] * 6
        texts = [m.text for m in await _messages(harness, story)]
        assert texts == [row.outcome.text, "Why do ships float?"]
        heard.append({f.outcome.fence for f in told})
    assert all(len(fences) == 1 for fences in heard)


async def test_a_turn_that_was_rolled_back_has_no_messages_in_the_conversation(
    harness: ArchiveHarness,
) -> None:
    story, undone = Story("one"), turn_pb.TURN_STATE_ROLLED_BACK
    rolled_back = story.finished(2, text="", state=undone)
    rolled_back.job.message.ClearField("position")
    kept = ["Because they push water aside.", "Why do ships float?"]
    await harness.archive.apply([fact(story.accepted(1)), fact(story.finished(1))])
    await harness.archive.apply([fact(story.accepted(2))])
    assert len(await _messages(harness, story)) == 3
    await harness.archive.apply([fact(rolled_back)])
    assert [m.text for m in await _messages(harness, story)] == kept
    # Told again, and in another order, it is still as if it had never been asked.
    await harness.archive.apply([fact(story.accepted(2)), fact(rolled_back)])
    assert [m.text for m in await _messages(harness, story)] == kept
    other = Story("two")
    rolled_back = other.finished(1, text="", state=undone)
    rolled_back.job.message.ClearField("position")
    for batch in ([rolled_back, other.accepted(1)], [other.accepted(1)]):
        await harness.archive.apply([fact(each) for each in batch])
        assert await _messages(harness, other) == []
    snapshot = await harness.archive.snapshot(other.session_id, window=20)
    assert (list(snapshot.window), snapshot.last_position) == ([], 0)


async def test_an_acceptance_that_comes_after_the_outcome_changes_nothing(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished())])
    before = await _rows_of(harness, "turns", "messages", "sessions")
    applied = await harness.archive.apply([fact(story.accepted())])
    assert applied.accepted == (story.turn_id(1),)
    assert await _rows_of(harness, "turns", "messages", "sessions") == before
    assert await harness.archive.unfinished_turns(older_than=0, lease=0, limit=10) == []


async def test_an_outcome_nobody_announced_brings_its_session_and_messages(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished())])
    snapshot = await harness.archive.snapshot(story.session_id, window=20)
    assert snapshot.session == story.session(revision=15)
    assert [m.author for m in snapshot.window] == [1, 2]


async def test_an_outcome_without_any_session_still_is_kept(harness: ArchiveHarness) -> None:
    finished = Story("one").finished()
    finished.ClearField("session")
    applied = await harness.archive.apply([fact(finished)])
    assert applied.finished == (finished,)
    later = Story("one").changed(revision=3)
    await harness.archive.apply([fact(later)])
    snapshot = await harness.archive.snapshot(later.session.session_id, window=1)
    assert snapshot.session == later.session


async def test_an_unknown_turn_gives_an_empty_answer(harness: ArchiveHarness) -> None:
    turn = await harness.archive.get_turn("nothing", "nowhere")
    assert (turn.job, turn.finished, turn.session_deleted) == (None, None, False)


async def test_a_turn_is_read_as_it_was_told(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.accepted())])
    turn = await harness.archive.get_turn(story.turn_id(1), story.session_id)
    assert (turn.job, turn.finished, turn.archive_time) == (story.job(), None, None)
    started = datetime.now(UTC)
    await harness.archive.apply([fact(story.finished())])
    turn = await harness.archive.get_turn(story.turn_id(1), story.session_id)
    assert turn.finished == story.finished()
    assert turn.archive_time is not None
    assert abs((turn.archive_time - started).total_seconds()) < 60


# --- sessions -----------------------------------------------------------------------------------


async def test_the_highest_revision_of_a_session_stays(harness: ArchiveHarness) -> None:
    story = Story("one")
    newest = story.changed(revision=7, title="New")
    await harness.archive.apply([fact(story.changed(revision=5)), fact(newest)])
    applied = await harness.archive.apply([fact(story.changed(revision=6, title="Old"))])
    assert applied.revisions == {story.session_id: 7}
    assert await _sessions(harness) == [newest.session]


async def test_a_deleted_session_is_gone_for_good(harness: ArchiveHarness) -> None:
    story, other = Story("one"), Story("two")
    await harness.archive.apply([fact(s.finished()) for s in (story, other)])
    assert await harness.archive.apply([fact(story.deleted())]) == Applied()
    for late in (story.changed(revision=99), story.accepted(2), story.finished(3)):
        assert await harness.archive.apply([fact(late)]) == Applied()
    assert await _sessions(harness) == [other.session(revision=15)]
    assert await _messages(harness, story) == []
    assert (await harness.archive.get_turn(story.turn_id(1), story.session_id)).session_deleted
    assert {row[0] for row in await harness.rows("SELECT session_id FROM turns")} == {
        other.session_id
    }


async def test_a_tombstone_keeps_no_more_than_whose_it_was(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(text="A secret."))])
    await harness.archive.apply([fact(story.deleted())])
    snapshot = await harness.archive.snapshot(story.session_id, window=20)
    assert snapshot.deleted
    assert snapshot.session is not None
    assert (snapshot.tenant, snapshot.session.user_id) == (TENANT, USER)
    assert "title" not in str(snapshot.session)
    assert snapshot.window == ()
    assert "secret" not in str(await _everything(harness))
    usage = await harness.rows("SELECT count(*) FROM usage")
    assert usage == [(2,)]


async def test_a_deletion_in_the_midst_of_a_batch_wins(harness: ArchiveHarness) -> None:
    story, other = Story("one"), Story("two")
    batch = [story.accepted(), story.deleted(), other.accepted(), story.finished()]
    applied = await harness.archive.apply([fact(message) for message in batch])
    assert applied.accepted == (other.turn_id(1),)
    assert applied.finished == ()
    assert (await harness.archive.snapshot(story.session_id, window=1)).deleted


async def test_a_session_deleted_before_it_was_heard_of_never_appears(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.deleted())])
    await harness.archive.apply([fact(story.changed()), fact(story.finished())])
    assert await _sessions(harness) == []


async def test_sessions_are_listed_by_user_newest_first_and_by_page(
    harness: ArchiveHarness,
) -> None:
    stories = [Story(f"s{age}", age=age // 2) for age in range(7)]
    others = [Story("other-user", user="bob"), Story("other-tenant", tenant="globex")]
    await harness.archive.apply([fact(story.changed()) for story in [*stories, *others]])
    listed: list[str] = []
    before: Place | None = None
    while page := await _sessions(harness, after=before, limit=2):
        listed += [session.session_id for session in page]
        before = _place(page[-1])
    expected = sorted(
        stories, key=lambda story: (story.session().create_time.seconds, story.session_id)
    )
    assert listed == [story.session_id for story in reversed(expected)]


async def test_sessions_are_listed_in_each_order_and_by_page(harness: ArchiveHarness) -> None:
    stories = [Story(f"s{age}", age=age // 2) for age in range(6)]
    for story, used in zip(stories, (40, 10, 60, None, 20, 50), strict=True):
        changed = story.changed()
        if used is not None:
            changed.session.last_used_time.FromSeconds(2_000_000_000 + used)
        await harness.archive.apply([fact(changed)])
    ids = [story.session_id for story in stories]

    async def listed(order: SessionOrder.ValueType) -> list[str]:
        found: list[str] = []
        after: Place | None = None
        while page := await _sessions(harness, after=after, limit=2, order=order):
            found += [session.session_id for session in page]
            last = page[-1]
            used = order == SESSION_ORDER_LAST_USED_FIRST and last.HasField("last_used_time")
            time = last.last_used_time if used else last.create_time
            after = Place(time=time.ToDatetime(UTC), id=last.session_id)
        return found

    assert await listed(SESSION_ORDER_NEWEST_FIRST) == ids[::-1]
    assert await listed(SESSION_ORDER_OLDEST_FIRST) == ids
    assert await listed(SESSION_ORDER_LAST_USED_FIRST) == [ids[n] for n in (2, 5, 0, 4, 1, 3)]


async def test_a_users_living_sessions_are_counted(harness: ArchiveHarness) -> None:
    stories = [Story(f"s{number}") for number in range(3)]
    other = Story("other", user="bob")
    await harness.archive.apply([fact(story.changed()) for story in [*stories, other]])
    assert await harness.archive.count_sessions(TENANT, USER) == 3
    await harness.archive.apply([fact(stories[0].deleted())])
    assert await harness.archive.count_sessions(TENANT, USER) == 2
    assert await harness.archive.count_sessions(TENANT, "nobody") == 0


async def test_notes_and_bookmarks_stay_by_a_revision_of_their_own(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")

    def changed(revision: int, *texts: str) -> SessionChanged:
        told = story.changed(revision=revision)
        told.annotations.revision = revision
        for text in texts:
            told.annotations.notes.add(note_id=text, text=text)
        return told

    async def kept() -> list[str]:
        found = (await harness.archive.snapshot(story.session_id, window=0)).annotations
        return [note.text for note in found.notes] if found else []

    await harness.archive.apply([fact(story.changed())])
    assert (await harness.archive.snapshot(story.session_id, window=0)).annotations is None
    # A later state of the session has overtaken them: it has no notes, so they hold.
    await harness.archive.apply([fact(story.changed(revision=30))])
    applied = await harness.archive.apply([fact(changed(12, "a", "b")), fact(changed(11, "a"))])
    assert applied.annotated == {story.session_id: 12}
    assert await kept() == ["a", "b"]
    await harness.archive.apply([fact(changed(11, "a"))])
    assert await kept() == ["a", "b"]
    await harness.archive.apply([fact(changed(13))])
    assert await kept() == []
    await harness.archive.apply([fact(changed(14, "c")), fact(story.deleted())])
    assert await harness.rows("SELECT session_id FROM annotations") == []
    assert (await harness.archive.apply([fact(changed(15, "d"))])).annotated == {}
    assert await harness.rows("SELECT session_id FROM annotations") == []


async def test_a_message_is_found_in_its_session_once_it_is_said(harness: ArchiveHarness) -> None:
    one, two = Story("one"), Story("two")
    await harness.archive.apply([fact(one.accepted(1, waiting=True)), fact(two.finished())])
    message_id = one.job().message.message_id
    assert await harness.archive.get_message(one.session_id, message_id) is None
    await harness.archive.apply([fact(one.finished())])
    found = await harness.archive.get_message(one.session_id, message_id)
    assert found == one.job().message
    assert await harness.archive.get_message(two.session_id, message_id) is None


# --- branches and statistics ----------------------------------------------------------------------


def _branch_of(story: Story, point: str, name: str = "branch") -> Session:
    branch = story.session(revision=5)
    branch.session_id = f"{name}-of-{story.session_id}"[:48]
    branch.parent_session_id, branch.parent_message_id = story.session_id, point
    return branch


async def test_a_branch_has_copies_of_its_own_and_is_made_once(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(number)) for number in (1, 2)])
    window = [story.finished(3).job.message, story.finished(3).answer]
    branch = _branch_of(story, window[0].message_id)
    assert await harness.archive.create_branch(TENANT, branch, window, 5, Findings())
    assert not await harness.archive.create_branch(TENANT, branch, window, 5, Findings())
    snapshot = await harness.archive.snapshot(branch.session_id, window=20)
    assert snapshot.session is not None
    assert (snapshot.tenant, snapshot.session.message_count) == (TENANT, 5)
    assert snapshot.session.parent_message_id == window[0].message_id
    assert [message.position for message in snapshot.window] == [1, 2, 3, 4, 5]
    assert snapshot.window[4].origin_message_id == window[0].message_id
    assert (snapshot.unfinished, snapshot.last_position, snapshot.last_turn_id) == ((), 5, "")
    # The parent's own message arrives later than its copy, and then the parent goes.
    await harness.archive.apply([fact(story.finished(3))])
    await harness.archive.apply([fact(story.deleted())])
    assert len((await harness.archive.snapshot(branch.session_id, window=20)).window) == 5


async def test_a_branch_has_what_was_found_in_its_messages(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(number)) for number in (1, 2)])
    early, late = (
        Specification(specification_id=str(number), message_id=story.job(number).message.message_id)
        for number in (1, 2)
    )
    conflict = Conflict(conflict_id="c", first=early, second=late)
    conflict.resolution.kind = RESOLUTION_KIND_REPLACE
    instead = Specification(specification_id="c.r", message_id=early.message_id)
    findings = Findings(specifications=[early, late, instead], conflicts=[conflict])
    for one in findings.specifications[:2]:
        one.withdrawn = True
    branch = _branch_of(story, story.finished(1).answer.message_id)
    assert await harness.archive.create_branch(TENANT, branch, [], 99, findings)
    snapshot = await harness.archive.snapshot(branch.session_id, window=20)
    assert snapshot.annotations is not None
    assert snapshot.annotations.findings == Findings(specifications=[early])
    assert snapshot.annotations.revision == branch.revision


async def test_a_turn_beside_the_conversation_is_nobodys_predecessor(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    beside = story.job(2)
    beside.lane, beside.kind = "analysis", turn_pb.TURN_KIND_ANALYSIS
    beside.ClearField("predecessor_turn_id")
    await harness.archive.apply([fact(TurnAccepted(job=story.job(1)))])
    await harness.archive.apply([fact(TurnAccepted(job=beside))])
    snapshot = await harness.archive.snapshot(story.session_id, window=20)
    assert snapshot.last_turn_id == story.job(1).turn_id
    assert {job.turn_id for job in snapshot.unfinished} == {
        story.job(1).turn_id,
        beside.turn_id,
    }


async def test_a_branch_at_a_message_long_archived_ends_there(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(number)) for number in (1, 2, 3)])
    branch = _branch_of(story, story.job(2).message.message_id)
    assert await harness.archive.create_branch(
        TENANT, branch, [story.finished(3).answer], 6, Findings()
    )
    window = (await harness.archive.snapshot(branch.session_id, window=20)).window
    assert [message.position for message in window] == [1, 2, 3]


async def test_what_was_rolled_back_is_in_no_branch_though_the_archive_does_not_know_yet(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(1)), fact(story.accepted(2))])
    instead = story.job(3)
    instead.message.position = story.job(2).message.position
    branch = _branch_of(story, instead.message.message_id)
    assert await harness.archive.create_branch(TENANT, branch, [instead.message], 3, Findings())
    window = (await harness.archive.snapshot(branch.session_id, window=20)).window
    assert [m.origin_message_id for m in window][2:] == [instead.message.message_id]
    assert len(window) == 3
    rolled_back = _branch_of(story, story.job(2).message.message_id, "other")
    with pytest.raises(MessageNotFound):
        await harness.archive.create_branch(TENANT, rolled_back, [instead.message], 3, Findings())


async def test_no_branch_of_what_is_not_there(harness: ArchiveHarness) -> None:
    story, other = Story("one"), Story("two")
    await harness.archive.apply([fact(story.finished()), fact(other.finished())])
    foreign = _branch_of(story, other.job().message.message_id)
    with pytest.raises(MessageNotFound):
        await harness.archive.create_branch(TENANT, foreign, [], 99, Findings())
    await harness.archive.apply([fact(story.deleted())])
    late = _branch_of(story, story.job().message.message_id)
    with pytest.raises(SessionNotFound):
        await harness.archive.create_branch(TENANT, late, [story.job().message], 1, Findings())
    for branch in (foreign, late):
        assert await harness.archive.snapshot(branch.session_id, window=1) == Snapshot()


async def test_a_deleted_branch_is_not_made_again(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished())])
    branch = _branch_of(story, story.job().message.message_id)
    assert await harness.archive.create_branch(TENANT, branch, [], 99, Findings())
    deleted = story.deleted()
    deleted.session_id = branch.session_id
    await harness.archive.apply([fact(deleted)])
    assert not await harness.archive.create_branch(TENANT, branch, [], 99, Findings())
    assert (await harness.archive.snapshot(branch.session_id, window=1)).deleted
    assert len((await harness.archive.snapshot(story.session_id, window=9)).window) == 2


async def test_a_deletion_of_the_parent_leaves_a_whole_branch_or_none(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(number)) for number in range(1, 20)])
    branch = _branch_of(story, story.finished(19).answer.message_id)
    made, _ = await asyncio.gather(
        harness.archive.create_branch(TENANT, branch, [], 99, Findings()),
        harness.archive.apply([fact(story.deleted())]),
        return_exceptions=True,
    )
    found = await harness.archive.snapshot(branch.session_id, window=100)
    assert made is True or isinstance(made, SessionNotFound)
    assert len(found.window) == (38 if made is True else 0)


async def test_statistics_add_up_a_sessions_turns_but_those_left_out(
    harness: ArchiveHarness,
) -> None:
    story, other = Story("one"), Story("two")
    finished = [story.finished(number) for number in (1, 2, 3)]
    for row, (attempts, seconds) in zip(finished, ((1, 2), (3, 5), (1, 7)), strict=True):
        row.outcome.attempts = attempts
        row.start_time.FromSeconds(row.outcome.finish_time.seconds - seconds)
    finished[2].outcome.state = turn_pb.TURN_STATE_CANCELLED
    await harness.archive.apply([fact(row) for row in [*finished, other.finished()]])
    await harness.archive.apply([fact(story.accepted(4))])
    found = await harness.archive.statistics(story.session_id, [])
    assert [(counted.state, counted.count) for counted in found.turns] == [
        (turn_pb.TURN_STATE_QUEUED, 1),
        (turn_pb.TURN_STATE_COMPLETED, 2),
        (turn_pb.TURN_STATE_CANCELLED, 1),
    ]
    assert found.retry_count == 2
    assert (found.total_duration.seconds, found.longest_duration.seconds) == (14, 7)
    assert [(u.model, u.call_count, u.input_tokens, u.output_tokens) for u in found.usage] == [
        ("offline", 3, 0, 27),
        ("wordllama", 3, 21, 0),
    ]
    left_out = [story.turn_id(number) for number in (2, 3, 4)]
    found = await harness.archive.statistics(story.session_id, left_out)
    assert [(counted.state, counted.count) for counted in found.turns] == [
        (turn_pb.TURN_STATE_COMPLETED, 1)
    ]
    assert (found.retry_count, [used.call_count for used in found.usage]) == (0, [1, 1])
    nothing = await harness.archive.statistics("nothing", [])
    assert (len(nothing.turns), nothing.total_duration.seconds) == (0, 0)


async def test_statistics_tell_what_turns_cost_and_of_which_nobody_knows(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    finished = [story.finished(number) for number in (1, 2, 3)]
    for row, micros in zip(finished, (0, 7_000_000_000_000), strict=False):
        answer = row.outcome.usage[1]
        answer.cost_micros, answer.currency, answer.cache_write_tokens = micros, "USD", 5
    finished[2].outcome.usage[1].cost_micros = 9  # of what?
    await harness.archive.apply([fact(row) for row in finished])
    found = await harness.archive.statistics(story.session_id, [])
    assert [
        (u.model, u.currency, u.HasField("cost_micros"), u.cost_micros, u.call_count)
        for u in found.usage
    ] == [
        ("offline", "", False, 0, 1),
        ("offline", "USD", True, 7_000_000_000_000, 2),
        ("wordllama", "", False, 0, 3),
    ]
    assert [used.cache_write_tokens for used in found.usage] == [0, 10, 0]


async def test_what_the_version_before_wrote_has_an_unknown_cost(harness: ArchiveHarness) -> None:
    async with harness.database.writing() as connection:
        await connection.write(
            """
            INSERT INTO usage (
                turn_id, step_no, step, model, tenant, user_id, session_id, input_tokens,
                output_tokens, cached_tokens, duration_ms
            ) VALUES ($1, 1, 'direct', 'm', 'acme', 'ada', $2, 7, 9, 0, 1)
            """,
            [("turn", "session")],
        )
    (used,) = (await harness.archive.statistics("session", [])).usage
    assert (used.input_tokens, used.currency, used.HasField("cost_micros")) == (7, "", False)


# --- accounts -------------------------------------------------------------------------------------


async def _calls(harness: ArchiveHarness) -> list[str]:
    rows = await harness.rows("SELECT usage_id FROM usage ORDER BY usage_id")
    return [usage_id for (usage_id,) in rows]


def _told(story: Story, *usage_ids: str, fence: int = 1) -> TurnFinished:
    """Return an outcome that tells of these calls."""
    finished = story.finished(fence=fence)
    del finished.outcome.usage[:]
    finished.outcome.usage.extend(story.call(usage_id) for usage_id in usage_ids)
    return finished


async def test_a_call_counts_once_whoever_tells_of_it_how_often_and_in_which_order(
    harness: ArchiveHarness,
) -> None:
    story, other = Story("one"), Story("two")
    finished, used = _told(story, "a:1", "b:1"), story.used("a:1", "a:2")
    later = _told(other, "a:1", "b:1"), other.used("a:1", "a:2")
    for batch in ([finished, used], [used], [finished], [later[1]], [later[0], later[1]]):
        await harness.archive.apply([fact(message) for message in batch])
    assert await _calls(harness) == ["a:1", "a:1", "a:2", "a:2", "b:1", "b:1"]
    for one in (story, other):
        (total,) = (await harness.archive.statistics(one.session_id, [])).usage
        assert (total.call_count, total.input_tokens, total.cost_micros) == (3, 21, 9)


async def test_what_is_used_by_a_turn_says_whose_it_was_and_when(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.used("a:1"))])
    rows = await harness.rows(
        "SELECT tenant, user_id, session_id, turn_id, step, finish_time FROM usage"
    )
    ((*owner, when),) = rows
    assert owner == [TENANT, USER, story.session_id, story.turn_id(1), "direct"]
    assert moment(when) == START + timedelta(seconds=1)
    assert await harness.rows("SELECT event_key FROM events") == [
        (f"turn.used:{story.turn_id(1)}:claim",)
    ]
    assert (await harness.archive.get_turn(story.turn_id(1), "")).job is None


async def test_an_outcome_that_came_too_late_has_been_paid_for_all_the_same(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    first, second = _told(story, "a:1"), _told(story, "a:1", "b:1", fence=2)
    await harness.archive.apply([fact(first)])
    applied = await harness.archive.apply([fact(second)])
    assert applied.finished == (first,)
    assert await _calls(harness) == ["a:1", "b:1"]


async def test_what_a_deleted_session_consumed_counts_whenever_it_is_told(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.used("a:1")), fact(story.deleted())])
    assert await harness.archive.apply([fact(story.used("a:2"))]) == Applied()
    assert await _calls(harness) == ["a:1", "a:2"]


async def test_calls_without_ids_are_known_by_their_number_as_in_the_version_before(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    finished = story.finished()
    for _ in range(2):
        await harness.archive.apply([fact(finished)])
    assert await _calls(harness) == ["", ""]


async def test_an_outcome_that_the_version_before_has_counted_is_not_counted_again(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(_told(story, "a:1"))])
    async with harness.database.writing() as connection:
        await connection.write("UPDATE usage SET usage_id = $1", [("",)])
    await harness.archive.apply([fact(_told(story, "a:1"))])
    assert await _calls(harness) == [""]


@pytest.mark.parametrize("field", ["turn_id", "claim_id", "usage_id"])
def test_what_was_used_by_nobody_knows_whom_is_unreadable(field: str) -> None:
    used = Story("one").used("" if field == "usage_id" else "a:1")
    if field != "usage_id":
        setattr(used, field, "")
    with pytest.raises(Unreadable, match=field):
        fact(used)


# --- snapshots and messages -----------------------------------------------------------------------


async def test_an_unknown_session_gives_an_empty_snapshot(harness: ArchiveHarness) -> None:
    assert await harness.archive.snapshot("nothing", window=20) == Snapshot()


async def test_a_snapshot_brings_back_the_window_and_what_is_unfinished(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(number)) for number in (1, 2, 3)])
    await harness.archive.apply([fact(story.accepted(4)), fact(story.accepted(5, waiting=True))])
    snapshot = await harness.archive.snapshot(story.session_id, window=4)
    assert snapshot.tenant == TENANT
    assert snapshot.session == story.session(revision=50)
    assert [m.position for m in snapshot.window] == [4, 5, 6, 7]
    assert snapshot.unfinished == (story.job(4), story.job(5, waiting=True))
    assert (snapshot.last_position, snapshot.last_turn_id) == (7, story.turn_id(5))
    assert (await harness.archive.snapshot(story.session_id, window=0)).window == ()


async def test_unfinished_turns_come_in_the_order_of_acceptance_however_they_arrived(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    jobs = [story.accepted(number) for number in (1, 2, 3, 4)]
    for accepted in jobs:
        # The clock went back, or stood still: the chain of predecessors is what counts.
        accepted.job.create_time.CopyFrom(jobs[0].job.create_time)
    for number in (3, 1, 0, 2):
        await harness.archive.apply([fact(jobs[number])])
    snapshot = await harness.archive.snapshot(story.session_id, window=20)
    assert snapshot.unfinished == tuple(accepted.job for accepted in jobs)
    assert snapshot.last_turn_id == story.turn_id(4)
    assert await harness.archive.unfinished_turns(older_than=0, lease=0, limit=1) == [
        accepted.job for accepted in jobs
    ]


async def test_the_message_of_a_waiting_turn_joins_once_it_has_a_position(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.accepted(1, waiting=True))])
    assert await _messages(harness, story) == []
    await harness.archive.apply([fact(story.finished(1))])
    assert [m.position for m in await _messages(harness, story)] == [2, 1]
    await harness.archive.apply([fact(story.accepted(1, waiting=True))])
    assert [m.position for m in await _messages(harness, story)] == [2, 1]


async def test_messages_are_paged_without_gap_or_double(harness: ArchiveHarness) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(number)) for number in range(1, 8)])
    seen: list[int] = []
    before = 0
    while page := await _messages(harness, story, beyond=before, limit=3):
        seen += [message.position for message in page]
        before = seen[-1]
    assert seen == list(range(14, 0, -1))
    seen = []
    while page := await _messages(harness, story, beyond=seen[-1] if seen else 0, limit=3, up=True):
        seen += [message.position for message in page]
    assert seen == list(range(1, 15))


async def test_a_page_never_ends_between_messages_of_one_position(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    twin = story.finished(2)
    twin.job.message.position, twin.answer.position = 1, 2
    await harness.archive.apply([fact(story.finished(1)), fact(twin)])
    for up, position in ((False, 2), (True, 1)):
        page = await _messages(harness, story, limit=1, up=up)
        assert [message.position for message in page] == [position] * 2


@pytest.mark.parametrize(
    ("order", "way"),
    [
        (SESSION_ORDER_NEWEST_FIRST, -1),
        (SESSION_ORDER_OLDEST_FIRST, 1),
        (SESSION_ORDER_LAST_USED_FIRST, -1),
    ],
)
async def test_sessions_of_one_moment_are_sorted_by_code_points_in_any_language(
    languages: ArchiveHarness, order: SessionOrder.ValueType, way: int
) -> None:
    """So the session service sorts them, whose page may end between them."""
    stories = [Story(name) for name in ("a", "B", "c", "D", "_", "-")]
    await languages.archive.apply([fact(story.changed()) for story in stories])
    pages: list[str] = []
    after: Place | None = None
    while found := await _sessions(languages, after=after, limit=1, order=order):
        pages += [session.session_id for session in found]
        after = _place(found[-1])
    assert pages == sorted(story.session_id for story in stories)[::way]


async def test_a_page_of_sessions_is_bounded_in_bytes_and_says_so(harness: ArchiveHarness) -> None:
    stories = [Story(f"s{age}", age=age) for age in range(5)]
    await harness.archive.apply([fact(story.changed(title="t" * 500)) for story in stories])
    whole = (await _sessions(harness))[::-1]
    seen: list[Session] = []
    sizes: list[int] = []
    before, cut = None, True
    while cut:
        page = await harness.archive.list_sessions(
            TENANT, USER, after=before, limit=9, most_bytes=1500
        )
        seen, cut = [*seen, *page.items], page.cut
        sizes.append(len(page.items))
        before = _place(page.items[-1])
    assert (seen, sizes) == (whole[::-1], [2, 2, 1])


async def test_a_page_of_messages_is_bounded_in_bytes_and_says_so(harness: ArchiveHarness) -> None:
    story = Story("one")
    twin = story.finished(3, text="twin" * 500)
    twin.job.message.position, twin.answer.position = 3, 4
    outcomes = [*(story.finished(number, text="answer" * 500) for number in (1, 2)), twin]
    await harness.archive.apply([fact(outcome) for outcome in outcomes])
    most = sum(m.ByteSize() for m in await _messages(harness, story) if m.position in (2, 3))
    positions: list[list[int]] = []
    before, cut = 0, True
    while cut:
        page = await harness.archive.list_messages(
            story.session_id, beyond=before, limit=100, most_bytes=most
        )
        positions.append([message.position for message in page.items])
        before, cut = positions[-1][-1], page.cut
    # The two answers at 4 are larger than a page, and yet they come together.
    assert positions == [[4, 4], [3, 3, 2], [1]]
    page = await harness.archive.list_messages(
        story.session_id, beyond=1, limit=100, most_bytes=most, oldest_first=True
    )
    assert ([message.position for message in page.items], page.cut) == ([2, 3, 3], True)


# --- unfinished turns -----------------------------------------------------------------------------


async def test_only_old_unfinished_turns_of_living_sessions_are_handed_out(
    harness: ArchiveHarness,
) -> None:
    unfinished, done, gone = Story("unfinished"), Story("done"), Story("gone")
    await harness.archive.apply(
        [fact(m) for m in (unfinished.accepted(), done.finished(), gone.accepted())]
    )
    await harness.archive.apply([fact(gone.deleted())])
    assert await harness.archive.unfinished_turns(older_than=60, lease=0, limit=9) == []
    assert await harness.archive.unfinished_turns(older_than=0, lease=0, limit=9) == [
        unfinished.job()
    ]


async def test_a_session_is_handed_to_one_caller_during_a_lease(harness: ArchiveHarness) -> None:
    stories = [Story(f"s{number}") for number in range(10)]
    await harness.archive.apply(
        [fact(story.accepted(number)) for story in stories for number in (1, 2)]
    )
    ids: list[str] = []
    while len(ids) < 20:
        # Callers at the same time may get fewer than are left, but never the same.
        handed = await asyncio.gather(
            *(harness.archive.unfinished_turns(older_than=0, lease=600, limit=4) for _ in range(4))
        )
        assert any(handed)
        ids += [job.turn_id for jobs in handed for job in jobs]
    assert sorted(ids) == sorted(story.turn_id(n) for story in stories for n in (1, 2))
    assert await harness.archive.unfinished_turns(older_than=0, lease=600, limit=9) == []
    assert await harness.archive.unfinished_turns(older_than=0, lease=0, limit=1) != []


# --- hostile data -------------------------------------------------------------------------------


async def test_a_nul_in_a_text_is_kept_and_shown(harness: ArchiveHarness) -> None:
    story = Story("one")
    hostile = story.finished(text="null \x00 byte")
    hostile.outcome.reason = "NUL\x00"
    hostile.session.title = "\x00title"
    hostile.answer.citations.add(number=1, quote="a \x00 quote", score=float("nan"))
    hostile.outcome.usage[0].model = "\x00"
    applied = await harness.archive.apply([fact(hostile)])
    (row,) = applied.finished
    assert row.SerializeToString() == hostile.SerializeToString()
    (answer, _) = await _messages(harness, story)
    assert answer.text == "null \x00 byte"
    shown = await harness.rows("SELECT text FROM messages WHERE position = 2")
    assert shown == [("null \u2400 byte",)]


async def test_data_that_the_database_refuses_takes_nothing_of_its_batch_along(
    harness: ArchiveHarness,
) -> None:
    good, bad = Story("good"), Story("bad")
    refused = bad.accepted()
    refused.job.turn_id = "x" * 10_000
    before = await _everything(harness)
    with pytest.raises(Refused) as refusal:
        await harness.archive.apply([fact(good.finished()), fact(refused)])
    assert "xxx" not in refusal.value.message
    assert await _everything(harness) == before
    assert (await harness.archive.apply([fact(good.finished())])).finished == (good.finished(),)


async def test_fields_of_a_newer_version_survive(harness: ArchiveHarness) -> None:
    story = Story("one")
    newer = story.finished()
    unknown = b"\xfa\x3e\x03new"  # field 1007, not known here
    body = newer.SerializeToString() + unknown
    merged = TurnFinished.FromString(body)
    await harness.archive.apply([fact(merged)])
    turn = await harness.archive.get_turn(story.turn_id(1), "")
    assert turn.finished is not None
    assert unknown in turn.finished.SerializeToString()


# --- helpers ------------------------------------------------------------------------------------


async def _messages(
    harness: ArchiveHarness, story: Story, *, beyond: int = 0, limit: int = 100, up: bool = False
) -> list[Message]:
    page = await harness.archive.list_messages(
        story.session_id, beyond=beyond, limit=limit, most_bytes=MEBIBYTE, oldest_first=up
    )
    assert not page.cut
    return list(page.items)


async def _sessions(
    harness: ArchiveHarness,
    *,
    after: Place | None = None,
    limit: int = 9,
    order: SessionOrder.ValueType = SESSION_ORDER_NEWEST_FIRST,
) -> list[Session]:
    page = await harness.archive.list_sessions(
        TENANT, USER, after=after, limit=limit, most_bytes=MEBIBYTE, order=order
    )
    assert not page.cut
    return list(page.items)


def _place(session: Session) -> Place:
    return Place(time=session.create_time.ToDatetime(UTC), id=session.session_id)


async def _everything(harness: ArchiveHarness) -> list[list[tuple[object, ...]]]:
    return await _rows_of(harness, "sessions", "turns", "messages", "usage", "events")


async def _rows_of(harness: ArchiveHarness, *tables: str) -> list[list[tuple[object, ...]]]:
    return [
        sorted(await harness.rows(f"SELECT * FROM {table}"), key=repr)  # noqa: S608 - the test's own
        for table in tables
    ]
