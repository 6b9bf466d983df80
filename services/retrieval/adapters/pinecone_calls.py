"""Operations at Pinecone: every attempt on a handle of its own, closed whatever happens.

A handle that is kept meets connections that the other side closed long ago, and a handle that is
shared is closed by one task under the hands of the others. A fresh one knows neither; on a shared
SSL context and a known host it costs a connection and nothing else.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Generic, Protocol, TypeVar

from opentelemetry.trace import SpanKind

from services.retrieval.adapters.breaker import Breaker, LeftAlone
from services.retrieval.adapters.pinecone_faults import (
    AGAINST_HOST,
    FOREIGN,
    NOT_BEGUN,
    RETRIED,
    Fault,
    Kind,
    fault_of,
)
from services.retrieval.errors import IndexTooSlow, IndexUnavailable
from services.retrieval.settings import PineconeOptions
from services.runtime import deadline
from services.runtime.errors import ServiceError
from services.runtime.names import (
    DB_OPERATION,
    DB_SYSTEM,
    INDEX_ATTEMPT,
    INDEX_ATTEMPTS,
    INDEX_CALL,
    INDEX_OPERATION,
    INDEX_OUTCOME,
)
from services.runtime.telemetry import current, mark_failed, span

log = logging.getLogger(__name__)


class Handle(Protocol):
    """A client of the SDK."""

    async def close(self) -> None:
        """Close its connections."""
        ...


H = TypeVar("H", bound=Handle)
T = TypeVar("T")


class AttemptFailed(Exception):
    """One attempt failed; its cause is the SDK's exception."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind.value)
        self.fault = fault


class Retries:
    """What one operation may still try."""

    def __init__(self, options: PineconeOptions) -> None:
        self._options = options
        self._not_begun = 0
        self._failed = 0

    def wait_after(self, fault: Fault, *, left: float | None) -> float | None:
        """Return the seconds to wait before the next attempt, None to give up.

        *left* is the rest of the caller's time; None is no limit.
        """
        if not self._again(fault.kind):
            return None
        retries = self._not_begun + self._failed - 1
        longest = min(self._options.longest_backoff, self._options.backoff * 2.0**retries)
        # Full jitter: callers that failed together must not come back together.
        wait = (fault.retry_after or 0.0) + random.uniform(0, longest)  # noqa: S311 - no secret
        most = self._options.longest_wait if left is None else min(left, self._options.longest_wait)
        return wait if wait < most else None

    def _again(self, kind: Kind) -> bool:
        if kind in NOT_BEGUN:
            self._not_begun += 1
        else:
            self._failed += 1
        return (
            kind in RETRIED
            and self._not_begun <= self._options.reconnects
            and self._failed < self._options.attempts
        )


class Calls(Generic[H]):
    """Runs operations at one host."""

    def __init__(self, host: str, options: PineconeOptions, open_handle: Callable[[], H]) -> None:
        """Make every attempt on a handle that *open_handle* makes."""
        self._host = host
        self._options = options
        self._open_handle = open_handle
        self._slots = asyncio.Semaphore(options.connections)
        self._breaker = Breaker(failures=options.breaker_failures, pause=options.breaker_pause)
        self._closing: set[asyncio.Future[None]] = set()

    async def run(self, operation: str, work: Callable[[H], Awaitable[T]]) -> T:
        """Do the work, which may be done more than once; raises domain errors only."""
        retries = Retries(self._options)
        for number in count(1):
            try:
                return await self._attempt(operation, number, work)
            except AttemptFailed as failed:
                await self._wait(operation, number, retries, failed)
        raise AssertionError  # never: count has no end

    async def closed(self) -> None:
        """Return once no handle is open any more."""
        await asyncio.gather(*self._closing)

    async def _wait(
        self, operation: str, number: int, retries: Retries, failed: AttemptFailed
    ) -> None:
        """Wait for the next attempt; raises the operation's error if there is none."""
        fault, left = failed.fault, deadline.remaining()
        wait = retries.wait_after(fault, left=left)
        facts = self._facts(operation, number)
        facts |= {"fault": fault.kind.value, "cause": type(failed.__cause__).__name__}
        if wait is None:
            log.warning("vector index: giving up", extra=facts)
            if left == 0:
                raise IndexTooSlow("the vector index took the caller's time") from failed.__cause__
            raise fault.error() from failed.__cause__
        log.info("vector index: recreating", extra={**facts, "wait": round(wait, 3)})
        await asyncio.sleep(wait)

    async def _attempt(self, operation: str, number: int, work: Callable[[H], Awaitable[T]]) -> T:
        async with self._slot():
            with _counted(operation, number), self._admitted() as era:
                with _attempt_span(operation, number):
                    result = await self._work(operation, number, work)
                self._breaker.succeeded(era)
                return result

    async def _work(self, operation: str, number: int, work: Callable[[H], Awaitable[T]]) -> T:
        log.debug("vector index: connecting", extra=self._facts(operation, number))
        try:
            async with self._handle() as handle:
                async with asyncio.timeout(deadline.bounded(self._options.timeout)):
                    return await work(handle)
        except FOREIGN as error:
            if (fault := fault_of(error)) is None:
                raise
            raise AttemptFailed(fault) from error

    @contextmanager
    def _admitted(self) -> Iterator[int]:
        """Try under the breaker, which is told how it went unless it went well."""
        try:
            era = self._breaker.admit()
        except LeftAlone as alone:
            message = "the vector index failed too often and is left alone"
            raise IndexUnavailable(message, retry_after=alone.wait) from alone
        try:
            yield era
        except AttemptFailed as failed:
            self._judge(failed.fault, era)
            raise
        except BaseException:
            self._breaker.released(era)
            raise

    def _judge(self, fault: Fault, era: int) -> None:
        if fault.kind not in AGAINST_HOST:
            self._breaker.succeeded(era)
        elif fault.kind is Kind.TIMEOUT and deadline.remaining() == 0:
            # The caller had less time than an attempt: that says nothing about the host.
            self._breaker.released(era)
        elif self._breaker.failed(era):
            pause = self._options.breaker_pause
            log.warning("vector index: left alone", extra={"host": self._host, "pause": pause})

    def _facts(self, operation: str, number: int) -> dict[str, str | int]:
        most = self._options.attempts + self._options.reconnects
        return {"operation": operation, "host": self._host, "attempt": number, "of": most}

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Hold one of the connections that may be open at once."""
        try:
            async with asyncio.timeout(deadline.remaining()):
                await self._slots.acquire()
        except TimeoutError as error:
            raise IndexTooSlow("other operations took the caller's time") from error
        try:
            yield
        finally:
            self._slots.release()

    @asynccontextmanager
    async def _handle(self) -> AsyncIterator[H]:
        handle = self._open_handle()
        try:
            yield handle
        finally:
            # In a task of its own: a caller that is cancelled twice still leaves nothing open.
            closing = asyncio.ensure_future(_close(handle))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            await asyncio.shield(closing)


async def _close(handle: Handle) -> None:
    try:
        await handle.close()
    except FOREIGN as error:
        # The answer is here already, or another error tells more.
        log.debug("vector index: a handle did not close", extra={"cause": type(error).__name__})


@contextmanager
def _attempt_span(operation: str, number: int) -> Iterator[None]:
    attributes: dict[str, str | int] = {
        DB_SYSTEM: "pinecone",
        DB_OPERATION: operation,
        INDEX_ATTEMPT: number,
    }
    name = INDEX_CALL.format(operation)
    with span(name, kind=SpanKind.CLIENT, attributes=attributes, failures=()) as opened:
        try:
            yield
        except AttemptFailed as failed:
            mark_failed(opened, failed.fault.kind.value)
            raise


@contextmanager
def _counted(operation: str, number: int) -> Iterator[None]:
    """Count the attempt once, by what becomes of it."""
    outcome = "ok"
    try:
        yield
    except BaseException as error:
        outcome = _outcome(error)
        raise
    finally:
        attributes: dict[str, str | int] = {
            INDEX_OPERATION: operation,
            INDEX_OUTCOME: outcome,
            INDEX_ATTEMPT: number,
        }
        current().counter(INDEX_ATTEMPTS).add(1, attributes)


def _outcome(error: BaseException) -> str:
    if isinstance(error, AttemptFailed):
        return error.fault.kind.value
    if isinstance(error, IndexUnavailable):
        return "left alone"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "damaged" if isinstance(error, ServiceError) else "bug"
