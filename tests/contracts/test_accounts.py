"""Accounts add up what was consumed, over PostgreSQL and SQLite."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from maieutic.bus.v1.bus_pb2 import TurnUsed
from maieutic.v1 import turn_service_pb2 as turn_pb, usage_service_pb2 as pb
from services.persistence.adapters.accounts import AccountOptions
from services.persistence.adapters.archive import SqlArchive
from services.persistence.errors import UsageTooLarge
from services.persistence.usage_ports import UsageAnswer, UsageQuestion
from tests.backends.postgres import PostgresServer
from tests.contracts.archives import ArchiveHarness, emptied_postgres_url, postgres_harness
from tests.persistence.stories import START, TENANT, USER, Story, fact

DAY, MODEL, STEP = pb.USAGE_KEY_DAY, pb.USAGE_KEY_MODEL, pb.USAGE_KEY_STEP
KIND, SESSION, WHO = pb.USAGE_KEY_KIND, pb.USAGE_KEY_SESSION, pb.USAGE_KEY_USER
SECOND = timedelta(seconds=1)
ENDLESS = """
WITH RECURSIVE counted (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM counted)
SELECT count(*) AS never FROM counted
"""


def call(usage_id: str, **fields: Any) -> turn_pb.Usage:
    given = {"step": "direct", "model": "m", "input_tokens": 10, "output_tokens": 1, **fields}
    return turn_pb.Usage(usage_id=usage_id, **given)


def priced(usage_id: str, micros: int, currency: str = "USD", **fields: Any) -> turn_pb.Usage:
    return call(usage_id, cost_micros=micros, currency=currency, **fields)


def told(
    story: Story, *usage: turn_pb.Usage, number: int = 1, at: datetime = START, kind: int = 1
) -> TurnUsed:
    used = story.used(number=number)
    used.usage.extend(usage)
    used.time.FromDatetime(at)
    used.kind = turn_pb.TurnKind.ValueType(kind)
    return used


async def keep(harness: ArchiveHarness, *messages: Any) -> None:
    await harness.archive.apply([fact(message) for message in messages])


async def asked(harness: ArchiveHarness, **fields: Any) -> UsageAnswer:
    return await harness.archive.usage(
        UsageQuestion(**{"tenant": TENANT, "user_id": None} | fields)
    )


def costs(total: pb.UsageTotal) -> dict[str, int]:
    return {cost.currency: cost.micros for cost in total.costs}


def calls(rows: Sequence[pb.UsageRow], field: str) -> dict[Any, int]:
    return {getattr(row, field): row.total.call_count for row in rows}


async def test_calls_are_added_up_by_whatever_is_asked_for(harness: ArchiveHarness) -> None:
    one, two = Story("one"), Story("two", user="bob")
    await keep(
        harness,
        told(one, priced("a:1", 5), priced("a:2", 7, step="context", model="n")),
        told(one, priced("b:1", 1, cached_tokens=4, cache_write_tokens=3), number=2, kind=3),
        told(two, priced("c:1", 2), at=START + timedelta(days=1)),
        told(Story("three", tenant="zenith"), priced("d:1", 100)),
    )
    everything = await asked(harness)
    (row,) = everything.rows
    assert row.total == everything.total
    assert row.total == pb.UsageTotal(
        call_count=4,
        input_tokens=40,
        output_tokens=4,
        cached_tokens=4,
        cache_write_tokens=3,
        costs=[pb.Cost(currency="USD", micros=15)],
        turn_count=3,
    )
    for key, field, expected in (
        (DAY, "day", {"2026-03-01": 3, "2026-03-02": 1}),
        (MODEL, "model", {"m": 3, "n": 1}),
        (STEP, "step", {"context": 1, "direct": 3}),
        (KIND, "kind", {turn_pb.TURN_KIND_ANALYSIS: 1, turn_pb.TURN_KIND_ASK: 3}),
        (SESSION, "session_id", {one.session_id: 3, two.session_id: 1}),
        (WHO, "user_id", {USER: 3, "bob": 1}),
    ):
        answer = await asked(harness, group_by=(key,))
        assert calls(answer.rows, field) == expected
        assert answer.total == everything.total
    both = await asked(harness, group_by=(MODEL, DAY))
    assert [(row.model, row.day, costs(row.total)) for row in both.rows] == [
        ("m", "2026-03-01", {"USD": 6}),
        ("m", "2026-03-02", {"USD": 2}),
        ("n", "2026-03-01", {"USD": 7}),
    ]


async def test_each_currency_has_its_sum_and_an_unknown_cost_is_in_none(
    harness: ArchiveHarness,
) -> None:
    story = Story("one")
    await keep(
        harness,
        told(story, priced("a:1", 5), priced("a:2", 7, "EUR"), call("a:3"), priced("a:4", 0)),
        told(story, call("b:1"), number=2),
    )
    (row,) = (await asked(harness, group_by=(MODEL,))).rows
    assert costs(row.total) == {"EUR": 7, "USD": 5}
    assert (row.total.call_count, row.total.unknown_cost_call_count) == (5, 2)
    # A turn with calls in two currencies is one turn.
    assert row.total.turn_count == 2


async def test_what_ended_at_the_start_counts_and_what_ended_at_the_end_does_not(
    harness: ArchiveHarness,
) -> None:
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    story, microsecond = Story("one"), timedelta(microseconds=1)
    for number, at in enumerate((midnight - microsecond, midnight, midnight + timedelta(days=1))):
        await keep(harness, told(story, call(f"{number}:1"), number=number, at=at))
    day = {"start": midnight, "end": midnight + timedelta(days=1)}
    assert [row.day for row in (await asked(harness, group_by=(DAY,), **day)).rows] == [
        "2026-03-02"
    ]
    assert (await asked(harness, **day)).total.call_count == 1
    assert (await asked(harness, start=midnight)).total.call_count == 2
    assert (await asked(harness, end=midnight)).total.call_count == 1
    elsewhere = midnight.astimezone(tz=None)
    assert (await asked(harness, start=elsewhere)).total.call_count == 2
    days = (await asked(harness, group_by=(DAY,))).rows
    assert [row.day for row in days] == ["2026-03-01", "2026-03-02", "2026-03-03"]


async def test_a_call_that_was_told_by_two_counts_once(harness: ArchiveHarness) -> None:
    story = Story("one")
    finished = story.finished(state=turn_pb.TURN_STATE_CANCELLED)
    finished.job.kind = turn_pb.TURN_KIND_UNSPECIFIED  # which means ASK
    del finished.outcome.usage[:]
    finished.outcome.usage.extend([priced("b:1", 5)])
    failed = told(story, priced("a:1", 3), priced("b:1", 5))
    await keep(harness, failed)
    await keep(harness, finished, failed, finished)
    (row,) = (await asked(harness, turn_id=story.turn_id(1), group_by=(KIND,))).rows
    total = row.total
    assert (total.call_count, costs(total), total.turn_count) == (2, {"USD": 8}, 1)
    assert row.kind == turn_pb.TURN_KIND_ASK
    analysis = story.finished(number=2)
    analysis.job.kind = turn_pb.TURN_KIND_ANALYSIS
    await keep(harness, analysis)
    (row,) = (await asked(harness, turn_id=story.turn_id(2), group_by=(KIND,))).rows
    assert (row.kind, row.total.call_count) == (turn_pb.TURN_KIND_ANALYSIS, 2)


async def test_rows_come_in_pages_with_the_sums_of_all(harness: ArchiveHarness) -> None:
    stories = [Story(f"{number}", user=f"user-{number}") for number in range(5)]
    for story in stories:
        await keep(harness, told(story, priced("a:1", 1), priced("a:2", 2, "EUR")))
    seen: list[str] = []
    after: tuple[str, ...] | None = None
    for rows in (2, 2, 1):
        answer = await asked(harness, group_by=(WHO, MODEL), limit=2, after=after)
        assert len(answer.rows) == rows
        assert answer.total.call_count == 10
        assert all(row.total.turn_count == 1 for row in answer.rows)
        seen += [row.user_id for row in answer.rows]
        after = answer.rest
    assert after is None
    assert seen == [story.user for story in stories]


async def test_a_user_sees_what_is_the_users_alone(harness: ArchiveHarness) -> None:
    mine, other = Story("one"), Story("two", user="bob")
    away = Story("three", tenant="zenith")
    await keep(
        harness, *(told(story, call("a:1")) for story in (mine, other, away)), mine.accepted(2)
    )
    assert (await asked(harness, user_id=USER)).total.call_count == 1
    for story, known in ((mine, True), (other, False), (away, False)):
        for which in ({"session_id": story.session_id}, {"turn_id": story.turn_id(1)}):
            answer = await asked(harness, user_id=USER, **which)
            assert (answer.known, answer.total.call_count) == (known, int(known)), which
    assert (await asked(harness, session_id=other.session_id)).known
    assert not (await asked(harness, session_id=away.session_id)).known
    # Its turn has consumed nothing yet, or nothing then.
    assert (await asked(harness, user_id=USER, turn_id=mine.turn_id(2))).known
    assert not (await asked(harness, user_id=USER, turn_id=mine.turn_id(3))).known
    late = await asked(harness, user_id=USER, turn_id=mine.turn_id(1), start=START + SECOND)
    assert (late.known, late.rows, late.total) == (True, [], pb.UsageTotal())
    # Without a user's name nobody is everybody.
    assert (await asked(harness, user_id="")).total.call_count == 0


async def test_a_deleted_session_is_still_accounted_for_to_its_owner(
    harness: ArchiveHarness,
) -> None:
    story, empty = Story("one"), Story("two")
    await keep(harness, story.accepted(), told(story, call("a:1")), empty.changed())
    await keep(harness, story.deleted(), empty.deleted())
    for which in ({"session_id": story.session_id}, {"turn_id": story.turn_id(1)}, {}):
        answer = await asked(harness, user_id=USER, **which)
        assert (answer.known, answer.total.call_count) == (True, 1)
    assert (await asked(harness, user_id=USER, session_id=empty.session_id)).known
    assert not (await asked(harness, user_id="bob", session_id=empty.session_id)).known


async def test_what_the_version_before_wrote_has_no_kind_and_perhaps_no_day(
    harness: ArchiveHarness,
) -> None:
    async with harness.database.writing() as connection:
        await connection.write(
            """
            INSERT INTO usage (
                turn_id, step_no, step, model, tenant, user_id, session_id, input_tokens,
                output_tokens, cached_tokens, duration_ms
            ) VALUES ('turn', 1, 'direct', 'm', $1, $2, 'session', 7, 9, 0, 1)
            """,
            [(TENANT, USER)],
        )
    newer = told(Story("one"), call("a:1"), kind=99)
    await keep(harness, newer, told(Story("two"), call("a:1"), kind=0))
    rows = (await asked(harness, group_by=(KIND, DAY))).rows
    assert [(row.kind, row.day) for row in rows] == [
        (turn_pb.TURN_KIND_UNSPECIFIED, ""),
        (turn_pb.TURN_KIND_UNSPECIFIED, "2026-03-01"),
        (99, "2026-03-01"),
    ]


async def test_a_statement_that_is_left_holds_up_nobody(harness: ArchiveHarness) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), harness.database.reading() as connection:
            await connection.fetch(ENDLESS)
    async with asyncio.timeout(5):
        await harness.archive.check()


async def test_questions_that_hang_leave_the_pool_to_others(
    postgres_server: PostgresServer,
) -> None:
    url = await emptied_postgres_url(postgres_server)
    question = UsageQuestion(tenant=TENANT, user_id=None)
    async with postgres_harness(url) as harness, locked(url, "usage"):
        patient = SqlArchive(harness.database, AccountOptions(at_once=2, timeout=30))
        waiting = [asyncio.create_task(patient.usage(question)) for _ in range(8)]
        hurried = SqlArchive(harness.database, AccountOptions(timeout=0.2))
        with pytest.raises(UsageTooLarge, match="ask for less, with start_time"):
            await hurried.usage(question)
        async with asyncio.timeout(5):
            await patient.check()
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


@asynccontextmanager
async def locked(url: str, table: str) -> AsyncIterator[None]:
    """Let nobody read the table during the block."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()
