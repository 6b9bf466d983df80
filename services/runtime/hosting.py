"""Several services in one process, each in a task of its own."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from services.runtime.telemetry import TelemetryOptions, telemetry

T = TypeVar("T")


@asynccontextmanager
async def hosted(
    name: str, service: AbstractAsyncContextManager[T], options: TelemetryOptions
) -> AsyncIterator[T]:
    """Run a service in a task of its own, so that its telemetry and its calls stay its own.

    Gives what the service gives once it is up; raises what it raises. Leaving drains it.
    """
    ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    work = _serve(name, service, options, ready, stop)
    task = asyncio.create_task(work, context=contextvars.Context())
    either: set[asyncio.Future[Any]] = {task, ready}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        await task
    try:
        yield ready.result()
    finally:
        stop.set()
        await asyncio.shield(task)


async def _serve(
    name: str,
    service: AbstractAsyncContextManager[Any],
    options: TelemetryOptions,
    ready: asyncio.Future[Any],
    stop: asyncio.Event,
) -> None:
    async with telemetry(name, options), service as running:
        ready.set_result(running)
        await stop.wait()
