"""From the bus into the archive: what is acknowledged when, and what no fault can break."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from maieutic.bus.v1.bus_pb2 import TurnAccepted, TurnFinished
from services.persistence.errors import ArchiveUnavailable
from services.persistence.facts import read_fact
from services.persistence.model import Applied, Fact
from services.persistence.settings import BatchOptions, EnsureOptions
from services.runtime.memory import MemoryBus
from services.runtime.topology import maieutic_topology
from tests.backends.postgres import PostgresServer, postgres
from tests.contracts.archives import (
    ArchiveHarness,
    fresh_postgres_url,
    postgres_harness,
    sqlite_harness,
)
from tests.fakes.archived_marks import Marks
from tests.persistence.office import QUEUE, SESSION, Office, office, waiting
from tests.persistence.stories import Story
from tests.proxy import Direction, proxy
from tests.waiting import wait_until


class Watched:
    """The archive's writes, which can be taken away; it notes the size of each batch."""

    def __init__(self, harness: ArchiveHarness) -> None:
        self._apply = harness.archive.apply
        self.away = False
        self.refusals = 0
        self.batches: list[int] = []
        harness.archive.apply = self.apply  # type: ignore[method-assign]

    async def apply(self, batch: Sequence[Fact]) -> Applied:
        if self.away:
            self.refusals += 1
            raise ArchiveUnavailable
        self.batches.append(len(batch))
        return await self._apply(batch)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ArchiveHarness]:
    async with sqlite_harness(tmp_path) as opened:
        yield opened


async def rows(harness: ArchiveHarness, table: str) -> int:
    ((count,),) = await harness.rows(f"SELECT count(*) FROM {table}")  # noqa: S608 - the test's own
    return int(count)


async def test_each_kind_of_fact_is_archived_and_confirmed(harness: ArchiveHarness) -> None:
    story, other = Story("one"), Story("two")
    async with office(harness.archive) as running:
        for message in (story.changed(), story.accepted(), story.finished(), other.accepted()):
            await running.publish(message)
        await wait_until(lambda: other.turn_id(1) in running.marks.accepted)
        assert running.marks.turns == {story.turn_id(1): story.finished()}
        assert running.marks.sessions == {story.session_id: 15, other.session_id: 10}
        assert running.marks.callers == {("persistence", "")}
        await wait_until(running.drained)
    assert await rows(harness, "turns") == 2


async def test_many_results_are_committed_in_few_batches(harness: ArchiveHarness) -> None:
    watched = Watched(harness)
    bus = await waiting(*(Story(f"s{number}").finished() for number in range(200)))
    async with office(harness.archive, bus=bus, batch=BatchOptions(size=50)) as running:
        await wait_until(lambda: len(running.marks.turns) == 200)
        assert watched.batches == [50] * 4


async def test_nothing_is_acknowledged_before_it_is_committed(harness: ArchiveHarness) -> None:
    watched = Watched(harness)
    watched.away = True
    bus = await waiting(*(Story(f"s{number}").finished() for number in range(5)))
    async with office(harness.archive, bus=bus):
        await wait_until(lambda: watched.refusals > 0)
    assert bus.depth(QUEUE) == 5
    assert await rows(harness, "turns") == 0


async def test_a_duplicate_result_makes_one_row(harness: ArchiveHarness) -> None:
    story = Story("one")
    async with office(harness.archive) as running:
        await running.publish(story.finished(), message_id="the-result")
        await wait_until(lambda: story.turn_id(1) in running.marks.turns)
        for _ in range(3):
            await running.publish(story.finished(), message_id="the-result")
        await running.publish(Story("last").finished())
        await wait_until(lambda: Story("last").turn_id(1) in running.marks.turns)
    assert await rows(harness, "turns") == 2
    assert await rows(harness, "messages") == 4
    assert await rows(harness, "usage") == 4


async def test_a_late_second_outcome_is_answered_with_the_first(harness: ArchiveHarness) -> None:
    story = Story("one")
    first, second = story.finished(text="First."), story.finished(text="Second.", fence=2)
    async with office(harness.archive) as running:
        await running.publish(first)
        await wait_until(lambda: running.marks.turns.get(story.turn_id(1)) == first)
        running.marks.turns.clear()
        await running.publish(second)
        await wait_until(lambda: bool(running.marks.turns))
        assert running.marks.turns == {story.turn_id(1): first}


async def test_facts_of_a_deleted_session_are_acknowledged_and_confirm_nothing(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    async with office(harness.archive) as running:
        await running.publish(story.deleted())
        await running.publish(story.finished())
        await running.publish(Story("last").changed())
        await wait_until(lambda: Story("last").session_id in running.marks.sessions)
        await wait_until(running.drained)
        assert running.marks.turns == {}
        assert await rows(harness, "dead_letters") == 0


# --- faults -------------------------------------------------------------------------------------


async def test_killed_between_commit_and_acknowledgement_nothing_changes(
    harness: ArchiveHarness,
) -> None:
    marks = Marks(away=True)
    bus = await waiting(*(Story(f"s{number}").finished() for number in range(5)))
    async with office(harness.archive, bus=bus, marks=marks):
        # Committed, not confirmed, so not acknowledged: then it ends.
        await wait_until(lambda: marks.callers != set())
    before = await harness.rows("SELECT * FROM turns ORDER BY turn_id")
    assert len(before) == 5
    assert bus.depth(QUEUE) == 5
    marks.away = False
    async with office(harness.archive, bus=bus, marks=marks) as running:
        await wait_until(lambda: len(marks.turns) == 5)
        await wait_until(running.drained)
    assert await harness.rows("SELECT * FROM turns ORDER BY turn_id") == before
    assert await rows(harness, "messages") == 10


async def test_an_absent_session_service_is_waited_for(harness: ArchiveHarness) -> None:
    marks = Marks(away=True)
    async with office(harness.archive, marks=marks) as running:
        await running.publish(Story("one").changed())
        await wait_until(lambda: marks.callers != set())
        assert marks.sessions == {}
        marks.away = False
        await wait_until(lambda: Story("one").session_id in marks.sessions)
        await wait_until(running.drained)


async def test_an_item_on_which_the_session_service_fails_holds_up_no_other(
    harness: ArchiveHarness,
) -> None:
    stories = [Story(f"s{number}") for number in range(8)]
    marks = Marks(refused={stories[3].turn_id(1)})
    async with office(harness.archive, marks=marks) as running:
        for story in stories:
            await running.publish(story.finished())
        others = {story.turn_id(1) for story in stories} - marks.refused
        await wait_until(lambda: set(marks.turns) == others)
        await wait_until(running.drained)
    assert await rows(harness, "turns") == 8


async def test_results_too_large_for_one_request_are_confirmed_in_several(
    harness: ArchiveHarness,
) -> None:
    watched = Watched(harness)
    results = [Story(f"s{number}").finished(text="long " * 40_000) for number in range(20)]
    async with office(harness.archive, bus=await waiting(*results)) as running:
        await wait_until(lambda: len(running.marks.turns) == 20)
        assert watched.batches == [20]
        assert sum(result.ByteSize() for result in results) > SESSION.max_message_bytes
        assert running.marks.marks > 1


async def test_a_lost_link_to_the_bus_loses_no_result(harness: ArchiveHarness) -> None:
    watched = Watched(harness)
    watched.away = True
    bus = await waiting(*(Story(f"s{number}").finished() for number in range(30)))
    async with office(harness.archive, bus=bus) as running:
        await wait_until(lambda: watched.refusals > 0)
        running.bus.drop_connections()
        watched.away = False
        await wait_until(lambda: len(running.marks.turns) == 30)
        await wait_until(running.drained)
    assert await rows(harness, "turns") == 30


async def test_two_replicas_share_the_work(harness: ArchiveHarness) -> None:
    bus, marks = MemoryBus(maieutic_topology()), Marks()
    async with (
        office(harness.archive, bus=bus, marks=marks) as one,
        office(harness.archive, bus=bus, marks=marks),
    ):
        for number in range(100):
            await one.publish(Story(f"s{number % 20}").finished(1 + number // 20))
        await wait_until(lambda: len(marks.turns) == 100)
    assert await rows(harness, "turns") == 100


@pytest.mark.parametrize(
    ("routing_key", "body", "reason"),
    [
        ("turn.finished", b"\xff\xff\xff", "not the expected protobuf"),
        ("turn.finished", b"", "not terminal"),
        ("turn.accepted", b"", "session_id is missing"),
        ("session.renamed", b"", "no message is known"),
    ],
)
async def test_what_cannot_be_read_goes_to_the_dead_letters_with_its_reason(
    harness: ArchiveHarness, routing_key: str, body: bytes, reason: str
) -> None:
    async with office(harness.archive) as running:
        await running.publish_raw(routing_key, body)
        await running.publish(Story("one").finished())
        await wait_until(lambda: len(running.marks.turns) == 1)
        assert reason in await _dead_reason(harness)


async def test_an_impossible_time_goes_to_the_dead_letters(harness: ArchiveHarness) -> None:
    finished = Story("one").finished()
    finished.outcome.finish_time.seconds = 2**60
    async with office(harness.archive) as running:
        await running.publish(finished)
        assert "turn.finished" in await _dead_reason(harness)


async def test_a_refused_row_is_dead_lettered_and_its_neighbours_are_kept(
    harness: ArchiveHarness,
) -> None:
    async with office(harness.archive, bus=await waiting(*_one_too_long())) as running:
        await wait_until(lambda: len(running.marks.turns) == 8)
        assert "IntegrityError" in await _dead_reason(harness)
        await wait_until(running.drained)
    assert await rows(harness, "turns") == 8


async def test_an_outage_of_the_database_holds_results_and_loses_none(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = await fresh_postgres_url(postgres_server)
    async with (
        proxy(postgres_server.port) as link,
        postgres_harness(url.replace(str(postgres_server.port), str(link.port))) as harness,
        office(harness.archive) as running,
    ):
        await running.publish(Story("before").finished())
        await wait_until(lambda: len(running.marks.turns) == 1)
        async with link.outage():
            for number in range(100):
                await running.publish(Story(f"s{number}").finished())
            await wait_until(lambda: "the archive is held" in caplog.text)
            assert len(running.marks.turns) == 1
        await wait_until(lambda: len(running.marks.turns) == 101, 30)
        await wait_until(running.drained)
        assert await rows(harness, "dead_letters") == 0
        assert await rows(harness, "turns") == 101


async def test_a_hanging_link_to_the_database_is_given_up_and_tried_again(
    postgres_server: PostgresServer,
) -> None:
    url = await fresh_postgres_url(postgres_server)
    async with (
        proxy(postgres_server.port) as link,
        postgres_harness(
            url.replace(str(postgres_server.port), str(link.port)), timeout=1.0
        ) as harness,
        office(harness.archive) as running,
    ):
        await running.publish(Story("before").finished())
        await wait_until(lambda: len(running.marks.turns) == 1)
        links = link.accepted
        async with link.paused(Direction.TO_CLIENT):
            for number in range(30):
                await running.publish(Story(f"s{number}").finished())
            await wait_until(lambda: link.accepted > links)
        await wait_until(lambda: len(running.marks.turns) == 31, 30)
        async with postgres_harness(url) as patient:
            assert await rows(patient, "turns") == 31


async def test_a_killed_database_comes_back_with_all_that_was_confirmed() -> None:
    async with (
        postgres() as server,
        postgres_harness(server.url) as harness,
        office(harness.archive) as running,
    ):
        publishing = asyncio.create_task(_publish_many(running, 200))
        await wait_until(lambda: len(running.marks.turns) > 20)
        await server.kill9()
        confirmed = set(running.marks.turns)
        await server.start()
        await wait_until(lambda: len(running.marks.turns) == 200, 60)
        await publishing
        kept = {row[0] for row in await harness.rows("SELECT turn_id FROM turns")}
        assert confirmed <= kept
        assert len(kept) == 200


async def test_a_refused_row_is_found_in_postgres_too(postgres_server: PostgresServer) -> None:
    url = await fresh_postgres_url(postgres_server)
    async with (
        postgres_harness(url) as harness,
        office(harness.archive, bus=await waiting(*_one_too_long())) as running,
    ):
        await wait_until(lambda: len(running.marks.turns) == 8)
        assert "CheckViolation" in await _dead_reason(harness)


# --- unfinished turns -----------------------------------------------------------------------------


async def test_turns_without_an_outcome_are_asked_after_in_acceptance_order(
    harness: ArchiveHarness,
) -> None:
    story, done = Story("one"), Story("done")
    marks = Marks(lost={story.turn_id(2)})
    ensure = EnsureOptions(after=0.0, interval=0.02, lease=0.0)
    async with office(harness.archive, marks=marks, ensure=ensure) as running:
        await running.publish(done.finished())
        for number in (1, 2, 3):
            await running.publish(story.accepted(number))
        await wait_until(lambda: len(marks.accepted) == 3)
        # A request that was under way by then may have fewer.
        jobs = [story.job(number) for number in (1, 2, 3)]
        await wait_until(lambda: marks.ensured[-3:] == jobs)
        assert marks.lost == set()
        assert done.turn_id(1) not in {job.turn_id for job in marks.ensured}


async def test_a_line_too_large_for_one_request_is_asked_after_in_several(
    harness: ArchiveHarness,
) -> None:
    story, marks = Story("one"), Marks()
    jobs = [story.job(number, text="long " * 100_000) for number in range(1, 10)]
    assert sum(job.ByteSize() for job in jobs) > SESSION.max_message_bytes
    ensure = EnsureOptions(after=0.0, interval=0.02, lease=60.0)
    await harness.archive.apply(
        [read_fact("turn.accepted", TurnAccepted(job=job).SerializeToString()) for job in jobs]
    )
    async with office(harness.archive, marks=marks, ensure=ensure):
        await wait_until(lambda: len(marks.ensured) == 9)
        assert marks.ensured == jobs


async def test_asking_after_turns_survives_faults(harness: ArchiveHarness) -> None:
    marks = Marks(away=True)
    ensure = EnsureOptions(after=0.0, interval=0.01, lease=0.0)
    await harness.archive.apply([])
    async with office(harness.archive, marks=marks, ensure=ensure) as running:
        await running.publish(Story("one").accepted())
        await wait_until(lambda: len(marks.callers) > 0)
        marks.away = False
        await wait_until(lambda: len(marks.ensured) > 0)


# --- helpers ------------------------------------------------------------------------------------


def _one_too_long() -> list[TurnFinished]:
    """Return nine results, of which the databases refuse one."""
    results = [Story(f"s{number}").finished() for number in range(9)]
    results[4].job.turn_id = "x" * 10_000
    return results


async def _dead_reason(harness: ArchiveHarness) -> str:
    async def is_kept() -> bool:
        return await rows(harness, "dead_letters") == 1

    await wait_until(is_kept)
    ((reason,),) = await harness.rows("SELECT reason FROM dead_letters")
    return str(reason)


async def _publish_many(running: Office, count: int) -> None:
    for number in range(count):
        await running.publish(Story(f"s{number}").finished())
        await asyncio.sleep(0.005)
