"""Load in a process of its own, so that making it does not slow down what is measured."""

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import uvloop

from services.runtime.lifecycle import collecting_rarely

T = TypeVar("T")


async def elsewhere(work: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Run the work in a new process; it and its arguments are pickled."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, _run, work, arguments)


def _run(work: Callable[..., Awaitable[T]], arguments: Sequence[object]) -> T:
    async def working() -> T:
        return await work(*arguments)

    with collecting_rarely(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(working())
