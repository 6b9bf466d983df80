"""What the contract suite of the bus needs from each adapter."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol
from uuid import uuid4

import aio_pika

from services.runtime.bus import Bus, OutgoingMessage
from services.runtime.memory import MemoryBus
from services.runtime.rabbitmq import RabbitMQBus
from services.runtime.topology import Binding, Exchange, ExchangeType, Queue, Topology
from tests.proxy import Proxy
from tests.waiting import wait_until

DELIVERY_LIMIT = 2
MOST_FILLERS = 50


class BusHarness(Protocol):
    """An adapter on a broker whose links can be broken."""

    @property
    def bus(self) -> Bus: ...

    async def drop_links(self) -> None:
        """Break every link, and return once the bus has noticed; it may connect again at once."""
        ...

    def outage(self) -> AbstractAsyncContextManager[None]:
        """Keep the broker out of reach until the context is left."""
        ...


class Names:
    """Names that no other test uses: a shared broker remembers."""

    def __init__(self) -> None:
        mark = uuid4().hex[:12]
        self.work = f"work.{mark}"
        self.dead = f"dead.{mark}"
        self.work_queue = f"work.{mark}.v1"
        self.narrow_queue = f"narrow.{mark}.v1"
        self.lonely_queue = f"lonely.{mark}.v1"
        self.nowhere = f"nowhere.{mark}"
        self.dead_queue = f"dead.{mark}.v1"

    def topology(self) -> Topology:
        """Return the queues of the contract.

        One takes any `job.` key, one is soon full, one has a dead-letter exchange without a queue,
        and one is for the dead.
        """
        return Topology(
            exchanges=(
                Exchange(name=self.work, type=ExchangeType.TOPIC),
                Exchange(name=self.dead, type=ExchangeType.TOPIC),
                Exchange(name=self.nowhere, type=ExchangeType.TOPIC),
            ),
            queues=(
                Queue(
                    name=self.work_queue,
                    delivery_limit=DELIVERY_LIMIT,
                    dead_letter_exchange=self.dead,
                ),
                Queue(name=self.narrow_queue, max_length=2),
                Queue(name=self.lonely_queue, dead_letter_exchange=self.nowhere),
                Queue(name=self.dead_queue, delivery_limit=None),
            ),
            bindings=(
                Binding(exchange=self.work, routing_key="job.#", queue=self.work_queue),
                Binding(exchange=self.work, routing_key="narrow", queue=self.narrow_queue),
                Binding(exchange=self.work, routing_key="lonely", queue=self.lonely_queue),
                Binding(exchange=self.dead, routing_key="#", queue=self.dead_queue),
            ),
        )


class MemoryHarness:
    """The in-process bus, whose faults are methods."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus

    @property
    def bus(self) -> Bus:
        return self._bus

    async def drop_links(self) -> None:
        self._bus.drop_connections()

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        with self._bus.outage():
            yield


class RabbitHarness:
    """RabbitMQ behind a proxy that breaks the links."""

    def __init__(self, bus: RabbitMQBus, link: Proxy) -> None:
        self._bus = bus
        self._link = link

    @property
    def bus(self) -> Bus:
        return self._bus

    async def drop_links(self) -> None:
        async with self.outage():
            await wait_until(self._unlinked)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        async with self._link.outage():
            yield

    def _unlinked(self) -> bool:
        links = self._bus._links
        return links.publishing.current is None and links.consuming.current is None


async def held_back(
    bus: Bus, message: Callable[[str], OutgoingMessage]
) -> tuple[str, asyncio.Task[None]]:
    """Publish until the queue is full; returns the id of what waits for room, and its publication.

    It has waited long enough for the adapter to doubt its channel.
    """
    for number in range(MOST_FILLERS):
        message_id = f"narrow-{number}"
        publishing = asyncio.create_task(bus.publish(message(message_id), timeout=60))
        done, _ = await asyncio.wait([publishing], timeout=1.5)
        if not done:
            return message_id, publishing
        await publishing
    raise AssertionError("the queue is never full")


@asynccontextmanager
async def removed_afterwards(url: str, topology: Topology) -> AsyncIterator[None]:
    """Leave a shared broker as it was found."""
    try:
        yield
    finally:
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            for queue in topology.queues:
                await channel.queue_delete(queue.name)
            for exchange in topology.exchanges:
                await channel.exchange_delete(exchange.name)
