"""A store answers late instead of not at all."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from tests.outages.checks import all_is_well
from tests.outages.conftest import Tell
from tests.outages.load import Load
from tests.proxy import Direction, Proxy
from tests.stack import RealStack

pytestmark = pytest.mark.asyncio(loop_scope="package")

IN_MID_LOAD = 60
REPLIES = 3
"""So many late replies, one after the other, and all is as usual again."""


async def test_redis_that_replies_two_seconds_late_costs_no_turn(
    stack: RealStack, load: Load, store: Proxy, tell: Tell
) -> None:
    tell(await slow_in_mid_load(load, [store], 2.0))
    # Even the slowest step is given the time it takes.
    assert load.failures == []
    await all_is_well(stack, load)


async def test_rabbitmq_that_replies_a_second_late_costs_no_turn(
    stack: RealStack, load: Load, tell: Tell
) -> None:
    tell(await slow_in_mid_load(load, stack.bus.values(), 1.0))
    assert load.failures == []
    assert not all(asked.durable for asked in load.asked)
    await all_is_well(stack, load)


async def test_postgresql_that_replies_a_second_late_costs_no_turn(
    stack: RealStack, load: Load, tell: Tell
) -> None:
    tell(await slow_in_mid_load(load, [stack.database], 1.0))
    assert load.failures == []
    await all_is_well(stack, load)


async def slow_in_mid_load(load: Load, links: Iterable[Proxy], seconds: float) -> float:
    """Ask under a store whose replies are late for a while; returns the time of recovery."""
    async with load.asking():
        await load.until_ended(IN_MID_LOAD)
        async with slow(links, seconds):
            await asyncio.sleep(REPLIES * seconds)
        back = time.monotonic()
    return load.recovered(back)


@asynccontextmanager
async def slow(links: Iterable[Proxy], seconds: float) -> AsyncIterator[None]:
    """Hold every reply back until the context is left."""
    for link in links:
        link.delay(Direction.TO_CLIENT, seconds)
    try:
        yield
    finally:
        for link in links:
            link.delay(Direction.TO_CLIENT, 0)
