"""The deadline of a call, as the calls below it see it."""

import asyncio

from services.runtime.deadline import bounded, lifted, remaining, within


def test_without_a_deadline_nothing_is_bounded() -> None:
    assert remaining() is None
    assert bounded(None) is None
    assert bounded(7.0) == 7.0


def test_the_smaller_limit_holds() -> None:
    with within(60):
        assert bounded(7.0) == 7.0
        left = bounded(None)
        assert left is not None
        assert left <= 60
        with within(3600):
            assert (remaining() or 0) <= 60
        with within(5):
            assert (remaining() or 0) <= 5
        with within(None):
            assert (remaining() or 0) > 5
    assert remaining() is None


def test_a_deadline_that_has_passed_leaves_nothing() -> None:
    with within(-1):
        assert remaining() == 0
        assert bounded(5) == 0


async def test_a_task_inherits_the_deadline_unless_it_is_lifted() -> None:
    async def left() -> float | None:
        return remaining()

    with within(60):
        assert await asyncio.create_task(left()) is not None
        with lifted():
            assert await asyncio.create_task(left()) is None
        assert remaining() is not None
