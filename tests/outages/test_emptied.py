"""Redis loses everything in mid-load: the archive and the jobs on the bus bring it back."""

import time
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from tests.outages.checks import all_is_well
from tests.outages.conftest import Tell
from tests.outages.load import PATIENCE, Load, load_on
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

THIRD = 24
"""Turns in each of three states."""


async def test_redis_emptied_in_mid_load_costs_no_turn(
    stack: RealStack, load: Load, tell: Tell
) -> None:
    async with load.asking():
        await load.until_ended(60)
        emptied = await flush(stack)
    tell(load.recovered(emptied))
    await all_is_well(stack, load, lost_attempts=1)


async def test_redis_emptied_costs_no_turn_that_is_queued_or_runs_or_is_not_archived(
    stack: RealStack, tell: Tell
) -> None:
    async with load_on(stack, sessions=3 * THIRD) as load:
        ended, running, queued = (load.sessions[place::3] for place in range(3))
        async with stack.database.outage():
            await load.ask(ended, turns_each=1)
            async with load.asking(running, turns_each=1, latency=1.5):
                await until_running(stack, load, running)
                emptied = await emptied_over_queued_turns(stack, load, queued)
        tell(load.recovered(emptied))
        await load.ask(turns_each=2)
        await all_is_well(stack, load, lost_attempts=1)


async def emptied_over_queued_turns(stack: RealStack, load: Load, sessions: Sequence[str]) -> float:
    """Empty Redis while turns wait for a worker, then let all go on; returns when it was."""
    stack.freeze("agents")
    async with load.asking(sessions, turns_each=1):
        await load.until_durable(sessions)
        emptied = await flush(stack)
        stack.thaw("agents")
        stack.database.accept()
    return emptied


async def flush(stack: RealStack) -> float:
    """Empty Redis; returns when, on the monotonic clock."""
    async with Redis.from_url(stack.backends.redis.url) as redis:
        await redis.flushall()
    return time.monotonic()


async def until_running(stack: RealStack, load: Load, sessions: Sequence[str]) -> None:
    """Wait until the model has been called for a turn of each session."""

    def called() -> bool:
        turns = {asked.turn_id for asked in load.asked if asked.session_id in sessions}
        return len(turns & set(stack.calls())) == len(sessions)

    await wait_until(called, PATIENCE)
