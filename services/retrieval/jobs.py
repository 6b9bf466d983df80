"""Document work over the bus: jobs out, jobs in, and a sweeper for what nobody works on."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from google.protobuf.message import DecodeError
from opentelemetry.trace import SpanKind

from maieutic.bus.v1.bus_pb2 import IngestDocument
from services.retrieval.claims import Claims
from services.retrieval.ingesting import Ingester
from services.retrieval.settings import IngestOptions
from services.runtime import names, telemetry
from services.runtime.bus import Bus, BusUnavailable, Deliveries, Delivery, OutgoingMessage
from services.runtime.errors import ServiceError
from services.runtime.repeating import again_and_again

LOG = logging.getLogger(__name__)

QUEUE = "jobs.ingest.v1"
PUBLISH_SECONDS = 2.0
SWEPT_AT_A_TIME = 100


class Jobs:
    """Asks for work on documents. A job that is lost is made good by the sweeper."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, tenant: str, document_id: str) -> None:
        """Have somebody work on the document."""
        job = IngestDocument(tenant=tenant, document_id=document_id)
        message = OutgoingMessage(
            exchange="jobs",
            routing_key="ingest",
            body=job.SerializeToString(),
            message_id=f"{document_id}-{uuid4().hex}",
        )
        try:
            await self._bus.publish(message, timeout=PUBLISH_SECONDS)
        except BusUnavailable as error:
            LOG.warning("document %s waits for the sweeper: %s", document_id, error)


class Worker:
    """Takes jobs from the bus, several at once, and answers each when its work has ended."""

    def __init__(
        self, *, bus: Bus, ingester: Ingester, claims: Claims, jobs: Jobs, options: IngestOptions
    ) -> None:
        self._bus = bus
        self._ingester = ingester
        self._claims = claims
        self._jobs = jobs
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work during the block; leaving it lets documents at hand end, and hands back the rest."""
        seconds, what = self._options.sweep_interval, "documents are swept"
        async with self._bus.consume(QUEUE, prefetch=self._options.concurrency) as deliveries:
            loops = [
                asyncio.create_task(self._consume(deliveries)),
                asyncio.create_task(again_and_again(self._sweep, seconds=seconds, what=what)),
            ]
            try:
                yield
            finally:
                await deliveries.stop()
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=self._options.drain)
                remaining = [*loops, *self._tasks]
                for task in remaining:
                    task.cancel()
                await asyncio.gather(*remaining, return_exceptions=True)

    async def _consume(self, deliveries: Deliveries) -> None:
        async for delivery in deliveries:
            task = asyncio.create_task(self._take(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, delivery: Delivery) -> None:
        try:
            job = IngestDocument.FromString(delivery.body)
        except DecodeError as error:
            await _reject(delivery, f"unreadable job: {error}")
            return
        attributes = {names.TENANT: job.tenant, names.DOCUMENT: job.document_id}
        origin = telemetry.extract(delivery.headers)
        with telemetry.span(
            names.INGEST_DOCUMENT, kind=SpanKind.CONSUMER, parent=origin, attributes=attributes
        ):
            await self._settle(job)
        # Whoever has the document's claim, or the sweeper, does what this job did not do.
        await delivery.ack()

    async def _settle(self, job: IngestDocument) -> None:
        try:
            await self._ingester.settle(job.tenant, job.document_id)
        except ServiceError as error:
            LOG.warning("document %s waits for the sweeper: %s", job.document_id, error)
        # A supervision loop: what one document brings about must not end the work on others.
        except Exception:
            LOG.exception("document %s waits for the sweeper", job.document_id)

    async def _sweep(self) -> None:
        """Publish jobs for what nobody works on."""
        for tenant, document_id in await self._claims.due(SWEPT_AT_A_TIME):
            await self._jobs.publish(tenant, document_id)


async def _reject(delivery: Delivery, reason: str) -> None:
    LOG.error("rejecting message %s: %s", delivery.message_id, reason)
    try:
        await delivery.reject(reason)
    except BusUnavailable:
        await delivery.requeue()
