"""A process ends on a signal, with its resources closed in order."""

import asyncio
import gc
import os
import signal

import pytest

from services.runtime.lifecycle import collecting_rarely, run, until_signalled


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_cancels_the_work_and_waits_for_its_clean_up(number: signal.Signals) -> None:
    steps = []

    async def work() -> None:
        try:
            send(number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("closed")

    await until_signalled(work())

    assert steps == ["closed"]


async def test_work_that_ends_by_itself_ends_the_process() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    await until_signalled(work())


async def test_an_error_of_the_work_is_the_process_s_error() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await until_signalled(work())


async def test_an_error_during_the_clean_up_is_not_hidden_by_the_signal() -> None:
    async def work() -> None:
        try:
            send(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await until_signalled(work())


async def test_a_second_signal_cuts_the_clean_up_short() -> None:
    steps = []

    async def work() -> None:
        try:
            send(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            steps.append("closing")
            send(signal.SIGTERM)
            await asyncio.Event().wait()

    await asyncio.wait_for(until_signalled(work()), 5)

    assert steps == ["closing"]


async def test_a_cancellation_that_no_signal_asked_for_passes_on() -> None:
    closed = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    task = asyncio.create_task(until_signalled(work()))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()


def test_the_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    names = []

    async def work() -> None:
        names.append(type(asyncio.get_running_loop()).__module__)

    run(work())

    assert signal.getsignal(signal.SIGTERM) is before
    assert names[0].startswith("uvloop")


def test_garbage_is_looked_for_more_rarely_while_a_process_works_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with collecting_rarely():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
