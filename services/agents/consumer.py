"""Jobs in from the bus: each starts one run that the worker owns, and is answered when it ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from google.protobuf.message import DecodeError
from opentelemetry.trace import SpanKind

from maieutic.bus.v1.bus_pb2 import RunTurn
from services.agents.turn_run import Disposition, TurnRun
from services.runtime import names, telemetry
from services.runtime.bus import Bus, BusUnavailable, Deliveries, Delivery
from services.runtime.topology import SUSPECT

_LOG = logging.getLogger(__name__)

RELEASE_SECONDS = 3.0
"""Time to hand back what did not finish, of a grace that is long enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker consumes, and how it stops. Times in seconds."""

    queues: Mapping[str, int]
    """Queue to the number of jobs that run at once."""

    grace: float = 25.0
    """From the order to stop until everything has ended; in its last part what is still running
    is handed back."""

    failure_pause: float = 1.0
    """Before a job whose run failed unexpectedly goes back, so that it cannot spin."""


class Start(Protocol):
    """Makes the run of a job."""

    def __call__(self, job: RunTurn, claim_id: str, *, from_lane: bool) -> TurnRun:
        """Return it, not yet begun; *from_lane* says whether others run beside it."""
        ...


@dataclass(slots=True, kw_only=True)
class _Running:
    """A run, and all deliveries of its turn; they are answered together when it ends."""

    run: TurnRun
    deliveries: list[Delivery] = field(default_factory=list)


class Worker:
    """Runs the jobs of some queues, each turn once at a time."""

    def __init__(self, *, bus: Bus, start: Start, options: WorkerOptions) -> None:
        """Take jobs from *bus*; *start* makes their runs."""
        self._bus = bus
        self._start = start
        self._options = options
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._consumers: list[asyncio.Task[None]] = []

    @property
    def busy(self) -> int:
        """How many turns run now."""
        return len(self._running)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work during the block; leaving it drains: finish, hand back, end within the grace."""
        async with AsyncExitStack() as stack:
            sources = [
                await stack.enter_async_context(self._bus.consume(queue, prefetch=places))
                for queue, places in self._options.queues.items()
            ]
            self._consumers = [asyncio.create_task(self._consume(source)) for source in sources]
            try:
                yield
            finally:
                await self._drain(sources)

    async def wait(self) -> None:
        """Wait as long as jobs can come; raises what ended a consumer."""
        await asyncio.gather(*map(asyncio.shield, self._consumers))

    async def _consume(self, deliveries: Deliveries) -> None:
        async for delivery in deliveries:
            self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        """Start the job's run, or join the one that its turn has here already."""
        try:
            job = _parsed(delivery.body)
        except ValueError as error:
            self._own(_reject(delivery, f"unreadable job: {error}"))
            return
        if (running := self._running.get(job.turn_id)) is not None:
            running.deliveries.append(delivery)
            return
        run = self._start(job, uuid4().hex, from_lane=delivery.routing_key != SUSPECT)
        running = _Running(run=run, deliveries=[delivery])
        self._running[job.turn_id] = running
        self._own(self._run(job, running))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: RunTurn, running: _Running) -> None:
        try:
            disposition = await self._disposition(job, running)
        finally:
            del self._running[job.turn_id]
        first, *joined = running.deliveries
        if disposition is Disposition.LEFT and joined:
            # This one may have been published after the turn was left: only its own claim tells.
            self._take(joined.pop())
        for delivery in (first, *joined):
            # Neither raises; an answer that comes too late means that the job comes again, and
            # then its claim tells that there is nothing left to do.
            if disposition is Disposition.REQUEUE:
                await delivery.requeue()
            else:
                await delivery.ack()

    async def _disposition(self, job: RunTurn, running: _Running) -> Disposition:
        origin = telemetry.extract(running.deliveries[0].headers)
        attributes = {names.TURN: job.turn_id, names.LANE: job.lane}
        active = telemetry.current().level(names.ACTIVE_TURNS)
        active.add(1, {names.LANE: job.lane})
        try:
            with telemetry.span(
                names.RUN_TURN, kind=SpanKind.CONSUMER, parent=origin, attributes=attributes
            ):
                return await running.run.run()
        # A supervision loop: one job that fails must not end its neighbours. The delivery limit
        # of the queue bounds how often it comes back.
        except Exception:  # noqa: BLE001 - see above
            _LOG.exception("turn %s: the run failed", job.turn_id)
            await asyncio.sleep(self._options.failure_pause)
            return Disposition.REQUEUE
        finally:
            active.add(-1, {names.LANE: job.lane})

    async def _drain(self, sources: Sequence[Deliveries]) -> None:
        """Take no more, let turns finish, hand back the rest; within the grace."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._options.grace
        self._own(_stop_all(sources))
        await self._until_idle(end - min(RELEASE_SECONDS, self._options.grace / 2))
        if self._running:
            _LOG.warning("handing back %d turns that did not finish in time", len(self._running))
        for running in list(self._running.values()):
            running.run.drain()
        await self._until_idle(end)
        remaining = [*self._tasks, *self._consumers]
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    async def _until_idle(self, end: float) -> None:
        """Wait until nothing runs, at most until *end* on the loop's clock."""
        loop = asyncio.get_running_loop()
        while self._tasks and loop.time() < end:
            await asyncio.wait(self._tasks, timeout=end - loop.time())


async def _stop_all(sources: Sequence[Deliveries]) -> None:
    for source in sources:
        await source.stop()


async def _reject(delivery: Delivery, reason: str) -> None:
    _LOG.error("rejecting message %s: %s", delivery.message_id, reason)
    try:
        await delivery.reject(reason)
    except BusUnavailable:
        await delivery.requeue()


def _parsed(body: bytes) -> RunTurn:
    """Read a job; ValueError with what is wrong with it."""
    try:
        job = RunTurn.FromString(body)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    if not (job.turn_id and job.tenant and job.user_id and job.message.session_id):
        raise ValueError("turn_id, tenant, user_id and message.session_id must be set")
    return job
