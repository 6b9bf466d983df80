"""From the bus into the archive, in batches.

A result is acknowledged only after it is committed and the session service knows it. Whatever is
interrupted before is delivered again and changes nothing then.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from services.persistence.confirming import Confirmations
from services.persistence.errors import ArchiveUnavailable, Refused, Unreadable
from services.persistence.facts import read_fact
from services.persistence.model import Applied, Fact
from services.persistence.ports import Facts
from services.persistence.retrying import until_done
from services.persistence.settings import BatchOptions
from services.persistence.tracing import archiving
from services.runtime import names, telemetry
from services.runtime.bus import Bus, BusUnavailable, Deliveries, Delivery

LOG = logging.getLogger(__name__)
QUEUE = "persist.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A delivery and what it says."""

    delivery: Delivery
    fact: Fact


class Consumer:
    """Archives what arrives on the bus, one batch after the other."""

    def __init__(
        self, *, bus: Bus, archive: Facts, confirmations: Confirmations, options: BatchOptions
    ) -> None:
        self._bus = bus
        self._archive = archive
        self._confirmations = confirmations
        self._options = options

    async def run(self) -> None:
        """Consume until cancelled; the batch at hand is then finished, if that is quick."""
        arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        prefetch = 2 * self._options.size
        async with (
            self._bus.consume(QUEUE, prefetch=prefetch) as deliveries,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(_read(deliveries, arrived))
            while True:
                batch = await self._next_batch(arrived)
                await self._finished(group.create_task(self._take(batch)))

    async def _next_batch(self, arrived: asyncio.Queue[Delivery]) -> list[Delivery]:
        batch = [await arrived.get()]
        try:
            async with asyncio.timeout(self._options.wait):
                while len(batch) < self._options.size:
                    batch.append(await arrived.get())
        except TimeoutError:
            pass  # what has come by now is the batch
        return batch

    async def _finished(self, work: asyncio.Task[None]) -> None:
        """Wait for a batch; a cancellation gives it some more time."""
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work], timeout=self._options.drain)
            raise

    async def _take(self, batch: Sequence[Delivery]) -> None:
        with archiving(batch):
            held = [taken for delivery in batch if (taken := await self._understood(delivery))]
            if held:
                await self._keep(held)

    async def _understood(self, delivery: Delivery) -> Held | None:
        """Return what a delivery says; what says nothing goes to the dead letters."""
        try:
            return Held(delivery=delivery, fact=read_fact(delivery.routing_key, delivery.body))
        except Unreadable as error:
            await self._reject(delivery, str(error))
            return None

    async def _keep(self, held: Sequence[Held]) -> None:
        """Commit, confirm, acknowledge; halves the batch until what is refused stands alone."""
        try:
            applied = await self._commit([each.fact for each in held])
        except Refused as refusal:
            if len(held) == 1:
                await self._reject(held[0].delivery, refusal.message)
                return
            middle = len(held) // 2
            await self._keep(held[:middle])
            await self._keep(held[middle:])
            return
        # Not acknowledged before the session service has heard of it, however long that takes:
        # an outcome would be published again by its clock, but nothing publishes a session's
        # revision or an acceptance again. While it is away, work piles up on the bus, which
        # keeps it, and hardly any comes in.
        await self._confirmations.confirm(applied)
        for each in held:
            await each.delivery.ack()

    async def _commit(self, facts: Sequence[Fact]) -> Applied:
        """Commit; while the database is away, hold what there is and take no more."""
        started = time.perf_counter()
        applied = await until_done(
            lambda: self._archive.apply(facts),
            despite=(ArchiveUnavailable,),
            what="the archive is held",
        )
        meters = telemetry.current()
        meters.histogram(names.ARCHIVE_COMMIT_DURATION).record(time.perf_counter() - started)
        for kind, count in Counter(fact.event.kind for fact in facts).items():
            meters.counter(names.ARCHIVED_FACTS).add(count, {names.FACT_KIND: kind})
        return applied

    async def _reject(self, delivery: Delivery, reason: str) -> None:
        telemetry.current().counter(names.DEAD_FACTS).add(1)
        LOG.error("dead letter %s (%s): %s", delivery.message_id, delivery.routing_key, reason)
        await until_done(
            lambda: delivery.reject(reason), despite=(BusUnavailable,), what="a dead letter is held"
        )


async def _read(deliveries: Deliveries, arrived: asyncio.Queue[Delivery]) -> None:
    """Move deliveries on; the prefetch bounds how many there are."""
    async for delivery in deliveries:
        arrived.put_nowait(delivery)
