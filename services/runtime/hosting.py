"""Several services in one process, each in a task of its own."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from opentelemetry.sdk.metrics.export import MetricReader

from services.runtime.telemetry import TelemetryOptions, telemetry

T = TypeVar("T")


@asynccontextmanager
async def hosted(
    name: str,
    service: AbstractAsyncContextManager[T],
    options: TelemetryOptions,
    *,
    metric_readers: Sequence[MetricReader] = (),
) -> AsyncIterator[T]:
    """Run a service in a task of its own, so that its telemetry and its calls stay its own.

    Gives what the service gives once it is up; raises what it raises. Leaving drains it.
    """
    recording = telemetry(name, options, metric_readers=metric_readers)
    ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    work = _serve(recording, service, ready, stop)
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
    recording: AbstractAsyncContextManager[Any],
    service: AbstractAsyncContextManager[Any],
    ready: asyncio.Future[Any],
    stop: asyncio.Event,
) -> None:
    async with recording, service as running:
        ready.set_result(running)
        await stop.wait()
