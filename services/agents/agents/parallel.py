"""Several calls at the same time, but not too many."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def each(call: Callable[[T], Awaitable[R]], values: Iterable[T], *, at_once: int) -> list[R]:
    """Return what each call returns, in order; the first error stops the others and is raised."""
    places = asyncio.Semaphore(at_once)

    async def one(value: T) -> R:
        async with places:
            return await call(value)

    tasks = [asyncio.ensure_future(one(value)) for value in values]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
