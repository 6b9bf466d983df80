"""Connections and channels to RabbitMQ that are opened again whenever they are lost.

The library's own robust connection takes one URL, and cancels the tasks of its user when a link is
lost; here a loss is an ordinary exception, `LinkLost`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import cycle
from typing import Any, Generic, Protocol, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from yarl import URL

_LOG = logging.getLogger(__name__)

OPEN_TIMEOUT = 5.0
"""Seconds to open a connection or a channel before the next attempt."""
CLOSE_TIMEOUT = 2.0
"""Seconds to close in good order before the rest is left to the broker."""
STABLE_AFTER = 5.0
"""Seconds after which a link counts as good again, and the next loss is repaired at once."""
HEARTBEAT = 10
"""Seconds; the broker drops a silent peer after two, the library after three."""

OnLost = Callable[..., None]
"""Takes whatever the library tells its callbacks; the last argument says why."""


class LinkLost(Exception):
    """A connection or channel is gone, or could not be opened."""


class Closable(Protocol):
    """A connection or a channel."""

    def close(self) -> Awaitable[None]:
        """Close it in good order."""
        ...


ClosableT = TypeVar("ClosableT", bound=Closable)


@contextmanager
def translated_losses() -> Iterator[None]:
    """Raise LinkLost for whatever the library raises when a link is gone.

    It also ends pending calls by a CancelledError of its own, although nobody cancelled the task
    that waits: the task's count of cancellations tells the two apart. And by a bare Exception,
    when the other side closed the connection between two frames. A cancellation of the task
    stays one.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        raise LinkLost("the link was closed") from error
    except Exception as error:
        if not isinstance(error, CONNECTION_EXCEPTIONS) and type(error) is not Exception:
            raise
        _raise_if_cancelled(task, before)
        raise LinkLost(str(error) or type(error).__name__) from error
    _raise_if_cancelled(task, before)


def _raise_if_cancelled(task: asyncio.Task[Any] | None, before: int) -> None:
    """Raise the cancellation that the library swallowed, as its timeouts do now and then."""
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def backoff(attempt: int, *, first: float = 0.05, most: float = 2.0) -> float:
    """Return the seconds to wait before retry `attempt` (from 0): exponential, full jitter."""
    return random.uniform(0, min(most, first * 2 ** min(attempt, 16)))  # noqa: S311 - no secret


class Kept(Generic[ClosableT]):
    """A resource that a task of its own opens, watches, and opens again when it is lost."""

    def __init__(self, name: str, open_resource: Callable[[OnLost], Awaitable[ClosableT]]) -> None:
        """Keep what `open_resource` returns.

        It raises LinkLost if it can not open it, and arranges that the callback it is given is
        called when the resource is lost.
        """
        self._name = name
        self._open = open_resource
        self._current: ClosableT | None = None
        self._up = asyncio.Event()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._problem = "not opened yet"

    @property
    def current(self) -> ClosableT | None:
        """The resource, or None while it is lost."""
        return self._current

    @property
    def problem(self) -> str | None:
        """Why there is none now; None if there is one."""
        return None if self._current is not None else f"{self._name}: {self._problem}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Kept[ClosableT]]:
        """Keep the resource open until the context is left."""
        keeper = asyncio.create_task(self._keep(), name=f"keep {self._name}")
        try:
            yield self
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])

    async def get(self) -> ClosableT:
        """Return the resource, once it is open."""
        while self._current is None:
            await self._up.wait()
        return self._current

    def renew(self, resource: ClosableT, reason: str) -> None:
        """Have it closed and opened again, unless another caller already has."""
        if self._current is resource and not self._lost.done():
            self._lost.set_result(reason)

    async def _keep(self) -> None:
        attempt = 0
        loop = asyncio.get_running_loop()
        while True:
            opened_at = loop.time()
            try:
                await self._open_and_watch()
            except LinkLost as error:
                self._note(str(error))
            except Exception as error:  # noqa: BLE001 - its end would leave every caller waiting
                self._note(repr(error))
                _LOG.exception("%s failed in an unexpected way", self._name)
            attempt = 0 if loop.time() - opened_at > STABLE_AFTER else attempt + 1
            await asyncio.sleep(backoff(attempt))

    def _note(self, problem: str) -> None:
        # An outage is one line, not one for each attempt.
        if problem != self._problem:
            _LOG.warning("%s: %s", self._name, problem)
        self._problem = problem

    async def _open_and_watch(self) -> None:
        # A future of its own for each resource: a late callback of the last one must not close
        # this one.
        self._lost = lost = asyncio.get_running_loop().create_future()

        def on_lost(*args: object) -> None:
            if not lost.done():
                lost.set_result(f"lost: {args[-1] or 'closed by the other side'}")

        resource = await self._open(on_lost)
        self._current = resource
        self._up.set()
        _LOG.info("%s is open", self._name)
        try:
            reason = await lost
        finally:
            self._current = None
            self._up.clear()
            await _closed(resource)
        raise LinkLost(reason)


async def _closed(resource: Closable) -> None:
    """Close what may be broken already; the broker notices by itself what is not closed here."""
    with suppress(LinkLost), translated_losses():
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await resource.close()


def kept_connection(name: str, urls: Sequence[str]) -> Kept[aio_pika.Connection]:
    """Return a connection to one of the nodes; after a loss the next one in turn is tried."""
    turns = cycle(urls)

    async def open_connection(on_lost: OnLost) -> aio_pika.Connection:
        url = URL(next(turns))
        if "heartbeat" not in url.query:
            url = url.update_query(heartbeat=HEARTBEAT)
        connection = aio_pika.Connection(url, client_properties={"connection_name": name})
        connection.close_callbacks.add(on_lost)
        opening = asyncio.create_task(connection.connect(timeout=OPEN_TIMEOUT))
        try:
            with translated_losses():
                await asyncio.shield(opening)
        except BaseException:
            # Cancelled half-way, the library would forget the connection, open as it is.
            await asyncio.wait([opening], timeout=CLOSE_TIMEOUT)
            opening.cancel()
            await _closed(connection)
            raise
        return connection

    return Kept(name, open_connection)


def kept_channel(
    name: str,
    connection: Kept[aio_pika.Connection],
    prepare: Callable[[AbstractChannel, OnLost], Awaitable[None]],
) -> Kept[AbstractChannel]:
    """Return a channel with publisher confirms, prepared before anyone may use it."""

    async def open_channel(on_lost: OnLost) -> AbstractChannel:
        link = await connection.get()
        with translated_losses():
            channel = link.channel(publisher_confirms=True, on_return_raises=True)
        channel.close_callbacks.add(on_lost)
        try:
            with translated_losses():
                async with asyncio.timeout(OPEN_TIMEOUT):
                    await channel.initialize()
                    await prepare(channel, on_lost)
        except BaseException:
            await _closed(channel)
            raise
        return channel

    return Kept(name, open_channel)
