"""A store is killed in mid-load, and comes back with what it had answered for."""

import asyncio
import time

import pytest

from tests.outages.checks import all_is_well
from tests.outages.conftest import Tell
from tests.outages.load import Load
from tests.stack import RealStack

pytestmark = pytest.mark.asyncio(loop_scope="package")

IN_MID_LOAD = 60
AWAY = 10.0


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


async def test_redis_killed_in_mid_load_costs_no_turn(
    stack: RealStack, load: Load, tell: Tell
) -> None:
    async with load.asking():
        await load.until_ended(IN_MID_LOAD)
        await stack.backends.redis.kill9()
        await stack.backends.redis.start()
        back = time.monotonic()
    tell(load.recovered(back))
    await all_is_well(stack, load)


async def test_postgresql_away_for_ten_seconds_costs_no_turn(
    stack: RealStack, load: Load, tell: Tell
) -> None:
    async with load.asking():
        await load.until_ended(IN_MID_LOAD)
        await stack.backends.postgres.kill9()
        await asyncio.sleep(AWAY)
        await stack.backends.postgres.start()
        back = time.monotonic()
    tell(load.recovered(back))
    await all_is_well(stack, load)
