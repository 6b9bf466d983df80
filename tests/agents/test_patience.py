"""Waits with a limit that moves on."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.agents.adapters.patience import Patience

LONG = 60.0


def at(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


@pytest.fixture
async def patience() -> AsyncIterator[Patience]:
    """One that lasts longer than any test."""
    made = Patience(at(LONG))
    yield made
    made.close()


async def test_what_comes_in_time_is_returned(patience: Patience) -> None:
    assert await patience.wait(asyncio.sleep(0, "word")) == "word"


async def test_a_wait_beyond_the_limit_ends_as_a_timeout_and_its_task_goes_on() -> None:
    patience = Patience(at(0.01))
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.Event().wait())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0.01)


async def test_a_limit_that_is_put_off_in_time_ends_nothing() -> None:
    patience, word = Patience(at(0.01)), asyncio.Event()
    patience.move(at(LONG))
    asyncio.get_running_loop().call_later(0.05, word.set)
    assert await patience.wait(word.wait())
    patience.close()


async def test_a_limit_that_is_brought_forward_holds_at_once(patience: Patience) -> None:
    patience.move(at(0.01))
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.Event().wait())


async def test_a_limit_that_passes_between_two_waits_ends_the_next_one_alone() -> None:
    patience = Patience(at(0.01))
    await asyncio.sleep(0.05)  # somebody else's work, which nobody limits
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.Event().wait())


async def test_whoever_cancels_the_task_is_obeyed(patience: Patience) -> None:
    waiting = asyncio.create_task(patience.wait(asyncio.Event().wait()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()


async def test_whoever_cancels_the_task_goes_before_the_limit() -> None:
    patience = Patience(at(0.0))
    waiting = asyncio.create_task(patience.wait(asyncio.Event().wait()))
    asyncio.get_running_loop().call_soon(waiting.cancel)
    await asyncio.wait({waiting})
    assert waiting.cancelled()


async def test_nothing_ends_once_it_is_closed() -> None:
    patience, word = Patience(at(0.01)), asyncio.Event()
    patience.close()
    asyncio.get_running_loop().call_later(0.05, word.set)
    assert await patience.wait(word.wait())


async def test_what_is_awaited_keeps_its_own_errors(patience: Patience) -> None:
    async def broken() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await patience.wait(broken())
