"""A store is killed in mid-load, and comes back with what it had answered for."""

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from maieutic_client import Maieutic, RetryPolicy, Unavailable
from tests.outages.checks import all_is_well
from tests.outages.conftest import Tell
from tests.outages.load import CLIENTS, Load
from tests.stack import RealStack

pytestmark = pytest.mark.asyncio(loop_scope="package")

IN_MID_LOAD = 60
AWAY = 10.0
LONGER_THAN_ONE_TRIES = 6.0
"""Seconds; one operation of the store gives up after five."""


async def test_rabbitmq_killed_in_mid_load_costs_no_turn(
    stack: RealStack, load: Load, tell: Tell
) -> None:
    async with load.asking():
        await load.until_ended(IN_MID_LOAD)
        await stack.backends.rabbit.kill9()
        await stack.backends.rabbit.start()
        back = time.monotonic()
    tell(load.recovered(back))
    await all_is_well(stack, load)


async def test_redis_killed_in_mid_load_costs_no_turn_and_refuses_with_the_time_to_retry(
    stack: RealStack, load: Load, tell: Tell
) -> None:
    async with load.asking():
        await load.until_ended(IN_MID_LOAD)
        await stack.backends.redis.kill9()
        await asyncio.sleep(LONGER_THAN_ONE_TRIES)
        await stack.backends.redis.start()
        back = time.monotonic()
    tell(load.recovered(back))
    assert any(asked.refusals for asked in load.asked)
    await all_is_well(stack, load)


async def test_postgresql_away_for_ten_seconds_holds_up_nobody_who_is_talking(
    stack: RealStack, load: Load, tell: Tell
) -> None:
    async with load.asking(turns_each=9, latency=1.2):
        await load.until_ended(CLIENTS)
        await stack.backends.postgres.kill9()
        await asyncio.sleep(AWAY / 2)
        await new_conversations_are_refused(stack)
        await asyncio.sleep(AWAY / 2)
        await stack.backends.postgres.start()
        back = datetime.now(tz=UTC)
        ended = {asked.turn_id for asked in load.asked if asked.outcome is not None}
    assert load.failures == []
    await all_is_well(stack, load)
    tell(await until_archived(stack, ended, back))


async def new_conversations_are_refused(stack: RealStack) -> None:
    """Assert that what needs the archive says so, and when to ask again."""
    impatient = RetryPolicy(give_up_after=0.0)
    async with Maieutic.connect(
        stack.address("gateway"), api_key=stack.api_key, retry=impatient
    ) as client:
        with pytest.raises(Unavailable) as refused:
            await client.sessions.create(title="during an outage")
    assert refused.value.reason == "ARCHIVE_UNAVAILABLE"
    assert refused.value.retry_after is not None


async def until_archived(stack: RealStack, turns: Iterable[str], back: datetime) -> float:
    """Return how long after *back* the last of these turns was in the archive."""
    query = "SELECT max(archive_time) AS last FROM turns WHERE turn_id = ANY($1)"
    (row,) = await stack.rows(query, list(turns))
    late: timedelta = row["last"] - back
    return max(0.0, late.total_seconds())
