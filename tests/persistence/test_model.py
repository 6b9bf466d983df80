"""What the archive decides, without a database."""

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionDeleted, TurnFinished
from services.persistence.errors import Unreadable
from services.persistence.facts import read_fact
from services.persistence.model import Fact, in_acceptance_order, joined, session_rows
from tests.contracts.archives import sqlite_harness
from tests.persistence.stories import Story, fact


def jobs(*links: tuple[str, str]) -> list[RunTurn]:
    return [RunTurn(turn_id=turn, predecessor_turn_id=before) for turn, before in links]


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ([], ""),
        ([("a", "")], "a"),
        ([("c", "b"), ("b", "a"), ("a", "")], "abc"),
        ([("a", ""), ("c", "b"), ("b", "a"), ("d", "c")], "abcd"),
        # The turn between them has ended: what is left keeps the order of age.
        ([("a", ""), ("d", "c"), ("b", "a")], "adb"),
        # A ring cannot be, but must not hang.
        ([("a", "b"), ("b", "a")], "ba"),
    ],
)
def test_each_job_comes_after_its_predecessor(given_: list[tuple[str, str]], expected: str) -> None:
    assert "".join(job.turn_id for job in in_acceptance_order(jobs(*given_))) == expected


def test_sessions_are_locked_in_one_order_by_every_writer() -> None:
    facts = [fact(Story(name).changed()) for name in ("c", "a", "b", "a")]
    random.shuffle(facts)
    ids = [row.session_id for row in session_rows(facts)]
    assert ids == sorted({each.session.session_id for each in facts})


def test_an_id_with_a_nul_is_unreadable_because_two_ids_must_not_become_one() -> None:
    gone = SessionDeleted(tenant="acme", user_id="ada", session_id="s\x00")
    with pytest.raises(Unreadable, match="NUL"):
        read_fact("session.deleted", gone.SerializeToString())


def told(story: Story, *usage_ids: str) -> TurnFinished:
    """Return a late outcome that tells of these calls."""
    finished = story.finished(1, text="third", fence=3)
    del finished.outcome.usage[:]
    finished.outcome.usage.extend(story.call(usage_id) for usage_id in usage_ids)
    return finished


STORIES = [Story("one"), Story("two")]
MESSAGES = [
    message
    for story in STORIES
    for message in (
        story.changed(revision=3),
        story.changed(revision=40, title="Later"),
        story.accepted(1),
        story.accepted(2, waiting=True),
        story.finished(1, text="first"),
        story.finished(1, text="second", fence=2),
        story.finished(2),
        told(story, "a:1", "b:1"),
        story.used("a:1", "a:2"),
        story.used("a:1", "c:1", claim="c"),
        story.deleted(),
    )
]
HEARD = st.lists(st.sampled_from(range(len(MESSAGES))), min_size=1, max_size=14)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(heard=HEARD, cuts=st.sets(st.integers(1, 13)))
@example(heard=[4, 7, 18], cuts=set())  # a late outcome beside another turn's with the same ids
async def test_batches_come_to_the_same_as_one_fact_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, heard: list[int], cuts: set[int]
) -> None:
    facts = [fact(MESSAGES[number]) for number in heard]
    edges = [0, *sorted(cut for cut in cuts if cut < len(facts)), len(facts)]
    batches = [facts[start:end] for start, end in itertools.pairwise(edges)]
    one_by_one = await _applied(tmp_path_factory.mktemp("single"), [[each] for each in facts])
    assert await _applied(tmp_path_factory.mktemp("batches"), batches) == one_by_one


async def _applied(folder: Path, batches: list[list[Fact]]) -> object:
    """Return what the tables hold and what was told, of sessions that were never deleted.

    Of a deleted one nothing may be left but its tombstone, its events and its usage; of these, a
    batch with the deletion in it writes fewer.
    """
    async with sqlite_harness(folder) as harness:
        told = joined([await harness.archive.apply(batch) for batch in batches])
        living = "session_id NOT IN (SELECT session_id FROM sessions WHERE delete_time NOT NULL)"
        held = [
            sorted(await harness.rows(f"{table} WHERE {living}"), key=repr)
            for table in (
                "SELECT session_id, title, record FROM sessions",
                "SELECT turn_id, state, finished FROM turns",
                "SELECT message_id, position, text, record FROM messages",
                "SELECT turn_id, usage_id FROM usage",
                "SELECT event_key FROM events",
            )
        ]
        dead = await harness.rows("SELECT session_id FROM sessions WHERE delete_time NOT NULL")
        left = await harness.rows(f"SELECT turn_id FROM turns WHERE NOT ({living})")  # noqa: S608 - the test's own
        assert left == []
    gone = {session_id for (session_id,) in dead}
    finished = {f.job.turn_id: f for f in told.finished if f.job.message.session_id not in gone}
    revisions = {key: value for key, value in told.revisions.items() if key not in gone}
    return held, sorted(gone), finished, revisions
