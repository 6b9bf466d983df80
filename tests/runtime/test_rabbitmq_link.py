import asyncio

import pytest
from aio_pika.exceptions import AMQPConnectionError, ChannelInvalidStateError

from services.runtime.rabbitmq_link import LinkLost, backoff, translated_losses


@pytest.mark.parametrize(
    "raised",
    [
        AMQPConnectionError("gone"),
        ChannelInvalidStateError("closed"),
        ConnectionResetError("reset"),
        TimeoutError(),
        asyncio.CancelledError(),  # nobody cancelled the task: the library did this
        Exception(),  # a connection closed between two frames
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_the_library_raises_is_a_lost_link(raised: BaseException) -> None:
    with pytest.raises(LinkLost) as lost, translated_losses():
        raise raised
    assert str(lost.value)
    assert lost.value.__cause__ is raised


@pytest.mark.parametrize("raised", [ValueError("no text"), LookupError(), TypeError()])
async def test_a_mistake_stays_what_it_is(raised: Exception) -> None:
    with pytest.raises(type(raised)), translated_losses():
        raise raised


async def test_a_cancelled_task_stays_cancelled() -> None:
    async def work() -> None:
        with translated_losses():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("instead", [AMQPConnectionError("refused"), None])
async def test_a_cancellation_that_the_library_swallows_is_not_lost(
    instead: Exception | None,
) -> None:
    async def work() -> None:
        with translated_losses():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if instead is not None:
                    raise instead from None

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_was_cancelled_before_still_tells_its_cancellation_from_a_loss() -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                with translated_losses():
                    raise asyncio.CancelledError
            except LinkLost:
                return "lost"
        return "went on"

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "lost"


def test_pauses_grow_to_their_bound() -> None:
    assert all(0 <= backoff(0) <= 0.05 for _ in range(100))
    assert max(backoff(50) for _ in range(100)) <= 2.0
    assert max(backoff(50) for _ in range(100)) > 0.5
