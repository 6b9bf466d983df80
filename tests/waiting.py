"""Waiting for what must become true, instead of sleeping for luck."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def wait_until(
    predicate: Callable[[], bool | Awaitable[bool]],
    timeout: float = 30.0,  # noqa: ASYNC109 - the failure names what was waited for
    *,
    every: float = 0.01,
) -> None:
    """Poll the predicate, plain or async, until it is true.

    Raises AssertionError after `timeout` seconds. What the predicate raises passes through.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    while not await _holds(predicate):
        if asyncio.get_running_loop().time() > deadline:
            name = getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"not true within {timeout} s: {name}")
        await asyncio.sleep(every)


async def _holds(predicate: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = predicate()
    return await answer if inspect.isawaitable(answer) else bool(answer)
