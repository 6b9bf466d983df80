"""The bus on RabbitMQ, one node or a cluster, versions 3.10 to 4.2.

Publishing and consuming use separate connections, so that a broker which holds back publishers
does not hold back acknowledgements.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count

import aio_pika
from aio_pika.abc import (
    AbstractChannel,
    AbstractIncomingMessage,
    AbstractQueue,
    FieldValue,
    HeadersType,
)
from aio_pika.exceptions import ChannelInvalidStateError, DeliveryError, PublishError

from services.runtime import bus_metrics
from services.runtime.bus import BusUnavailable, Deliveries, OutgoingMessage, Unroutable
from services.runtime.rabbitmq_link import (
    OPEN_TIMEOUT,
    Kept,
    LinkLost,
    OnLost,
    backoff,
    kept_channel,
    kept_connection,
    translated_losses,
)
from services.runtime.topology import Queue, Topology

MAX_IN_FLIGHT = 100
"""Publishes that wait for their confirm at a time; beyond it latency grows and throughput not."""
REFUSALS_TOLERATED = 1.0
"""Seconds of nothing but refused messages before the channel is opened again: one that was opened
while a queue elected its leader may be refused for good, and a new one is not."""
LONGEST_PAUSE = 0.5
"""Seconds between two attempts to publish the same message."""
REJECT_TIMEOUT = 10.0
"""Seconds for the dead-letter exchange to confirm a rejected message."""
NO_DELIVERY_LIMIT = 1_000_000_000
"""Left out, RabbitMQ 4 would drop after 20; its -1 for "none" is an error on RabbitMQ 3."""
REASON_HEADER = "x-maieutic-reason"

RejectTo = Callable[["RabbitDelivery", str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Links:
    """What a bus needs to be open."""

    publishing: Kept[aio_pika.Connection]
    channel: Kept[AbstractChannel]
    """On `publishing`."""
    consuming: Kept[aio_pika.Connection]

    @property
    def problem_of_publishing(self) -> str | None:
        return self.publishing.problem or self.channel.problem


class RabbitMQBus:
    """`bus.Bus` on RabbitMQ; made by `connect`."""

    def __init__(self, topology: Topology, links: _Links) -> None:
        """Use links that the caller keeps open."""
        self._topology = topology
        self._links = links
        self._publisher = _Publisher(links, topology)

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, topology: Topology) -> AsyncIterator[RabbitMQBus]:
        """Keep a bus open to one of the nodes, whose URLs are separated by commas.

        This does not wait for the broker: until there is a link, `check` raises BusUnavailable and
        `publish` waits. The topology is declared on every new link.
        """
        urls = [part.strip() for part in url.split(",") if part.strip()]
        if not urls:
            raise ValueError("no URL of a RabbitMQ node")
        publishing = kept_connection("maieutic publisher", urls)
        links = _Links(
            publishing=publishing,
            channel=kept_channel(
                "publishing channel", publishing, lambda channel, _: _declare(channel, topology)
            ),
            consuming=kept_connection("maieutic consumer", urls),
        )
        async with links.publishing.running(), links.channel.running(), links.consuming.running():
            yield cls(topology, links)

    async def publish(self, message: OutgoingMessage, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - covers the retries
        """See `bus.Bus.publish`."""
        with bus_metrics.publishing(message, system="rabbitmq") as headers:
            await self._publisher.publish(
                _as_amqp(message.body, message.message_id, dict(headers)),
                exchange=message.exchange,
                routing_key=message.routing_key,
                timeout=timeout,
            )

    @asynccontextmanager
    async def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[Deliveries]:
        """See `bus.Bus.consume`."""
        definition = self._topology.queue(queue)
        deliveries = _RabbitDeliveries(queue, prefetch, self._rejecting_from(definition))

        async def prepare(channel: AbstractChannel, on_lost: OnLost) -> None:
            await _declare(channel, self._topology)
            await deliveries.begin(channel, on_lost)

        # Closing the channel is what hands back all that was not answered.
        async with kept_channel(f"consumer of {queue}", self._links.consuming, prepare).running():
            yield deliveries

    async def check(self) -> None:
        """See `bus.Bus.check`."""
        if problem := self._links.problem_of_publishing or self._links.consuming.problem:
            raise BusUnavailable(problem)

    def _rejecting_from(self, queue: Queue) -> RejectTo:
        async def reject(delivery: RabbitDelivery, reason: str) -> None:
            if queue.dead_letter_exchange is None:
                return
            headers: HeadersType = {**delivery.headers, REASON_HEADER: reason}
            try:
                await self._publisher.publish(
                    _as_amqp(delivery.body, delivery.message_id, headers),
                    exchange=queue.dead_letter_exchange,
                    routing_key=delivery.routing_key,
                    timeout=REJECT_TIMEOUT,
                )
            except Unroutable as error:
                raise BusUnavailable(f"nowhere to keep what is dead: {error}") from error

        return reject


def _as_amqp(body: bytes, message_id: str, headers: HeadersType) -> aio_pika.Message:
    return aio_pika.Message(
        body,
        message_id=message_id,
        headers=headers,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


async def _declare(channel: AbstractChannel, topology: Topology) -> None:
    for exchange in topology.exchanges:
        await channel.declare_exchange(exchange.name, exchange.type.value, durable=True)
    for queue in topology.queues:
        await channel.declare_queue(queue.name, durable=True, arguments=_queue_arguments(queue))
    for binding in topology.bindings:
        bound = await channel.get_queue(binding.queue, ensure=False)
        await bound.bind(binding.exchange, binding.routing_key)


def _queue_arguments(queue: Queue) -> dict[str, FieldValue]:
    arguments: dict[str, FieldValue] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": queue.delivery_limit or NO_DELIVERY_LIMIT,
        # What does not fit is refused, and the publisher keeps it; the default drops the oldest.
        "x-overflow": "reject-publish",
    }
    if queue.dead_letter_exchange is not None:
        arguments["x-dead-letter-exchange"] = queue.dead_letter_exchange
        # Kept until the dead-letter queue has confirmed it; the default may lose it on the way.
        arguments["x-dead-letter-strategy"] = "at-least-once"
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    return arguments


class _Refused(Exception):
    """The broker answered a publish with a nack: it is not stored."""


class _Publisher:
    """Publishes until confirmed, whatever happens to the channel meanwhile."""

    def __init__(self, links: _Links, topology: Topology) -> None:
        self._links = links
        self._channel = links.channel
        self._exchanges = frozenset(exchange.name for exchange in topology.exchanges)
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._refusals: tuple[AbstractChannel, float] | None = None

    async def publish(
        self,
        message: aio_pika.Message,
        *,
        exchange: str,
        routing_key: str,
        timeout: float,  # noqa: ASYNC109 - covers the retries
    ) -> None:
        if exchange not in self._exchanges:
            # The broker would close the channel, and with it fail the publishes of others.
            raise Unroutable(f"exchange {exchange!r} is not in the topology")
        try:
            async with asyncio.timeout(timeout), self._slots:
                await self._until_confirmed(message, exchange, routing_key)
        except TimeoutError as error:
            problem = self._links.problem_of_publishing or "refused, or no answer"
            raise BusUnavailable(f"not confirmed within {timeout} s: {problem}") from error

    async def _until_confirmed(
        self, message: aio_pika.Message, exchange: str, routing_key: str
    ) -> None:
        for attempt in count():
            channel = await self._channel.get()
            try:
                await _publish_once(channel, message, exchange, routing_key)
            except _Refused:
                bus_metrics.retrying("refused")
                self._note_refusal(channel)
            except LinkLost:
                # Stored or not, nobody knows: the same id goes out again, and consumers recognise
                # what they have done.
                bus_metrics.retrying("lost")
            else:
                self._refusals = None
                return
            await asyncio.sleep(backoff(attempt, most=LONGEST_PAUSE))

    def _note_refusal(self, channel: AbstractChannel) -> None:
        now = asyncio.get_running_loop().time()
        if self._refusals is None or self._refusals[0] is not channel:
            self._refusals = (channel, now)
        elif now - self._refusals[1] > REFUSALS_TOLERATED:
            self._channel.renew(channel, "only refusals; a new channel may be heard")


async def _publish_once(
    channel: AbstractChannel, message: aio_pika.Message, exchange: str, routing_key: str
) -> None:
    with translated_losses():
        target = await channel.get_exchange(exchange, ensure=False)
        try:
            await target.publish(message, routing_key, mandatory=True)
        except PublishError as error:
            raise Unroutable(f"no queue is bound to {exchange!r} for {routing_key!r}") from error
        except DeliveryError as error:
            raise _Refused from error


class RabbitDelivery:
    """`bus.Delivery` of one message from RabbitMQ."""

    __slots__ = ("_message", "_reject")

    def __init__(self, message: AbstractIncomingMessage, reject: RejectTo) -> None:
        """Answer on the channel that brought `message`; `reject` stores it as dead."""
        self._message = message
        self._reject = reject

    @property
    def body(self) -> bytes:
        """See `bus.Delivery.body`."""
        return self._message.body

    @property
    def message_id(self) -> str:
        """See `bus.Delivery.message_id`."""
        return self._message.message_id or ""

    @property
    def routing_key(self) -> str:
        """See `bus.Delivery.routing_key`."""
        return self._message.routing_key or ""

    @property
    def headers(self) -> Mapping[str, str]:
        """See `bus.Delivery.headers`."""
        return {
            name: value
            for name, value in self._message.headers.items()
            if isinstance(value, str) and not name.startswith("x-")
        }

    @property
    def delivery_count(self) -> int:
        """See `bus.Delivery.delivery_count`."""
        count_header = self._message.headers.get("x-delivery-count")
        return count_header if isinstance(count_header, int) else 0

    @property
    def dead_reason(self) -> str | None:
        """See `bus.Delivery.dead_reason`."""
        headers = self._message.headers
        reason = headers.get(REASON_HEADER) or headers.get("x-first-death-reason")
        return reason if isinstance(reason, str) else None

    @property
    def held(self) -> bool:
        """Whether the channel that brought it is still open."""
        try:
            return not self._message.channel.is_closed
        except ChannelInvalidStateError:
            return False

    async def ack(self) -> bool:
        """See `bus.Delivery.ack`."""
        try:
            with translated_losses():
                await self._message.ack()
        except LinkLost:
            return False
        return True

    async def requeue(self) -> None:
        """See `bus.Delivery.requeue`."""
        with suppress(LinkLost), translated_losses():
            await self._message.nack(requeue=True)

    async def reject(self, reason: str) -> None:
        """See `bus.Delivery.reject`."""
        if self._message.processed or not self.held:
            return
        await self._reject(self, reason)
        await self.ack()


class _RabbitDeliveries:
    """`bus.Deliveries` from one queue, over one channel after the other."""

    def __init__(self, queue: str, prefetch: int, reject: RejectTo) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._reject = reject
        self._inbox: asyncio.Queue[RabbitDelivery | None] = asyncio.Queue()
        self._consumer: tuple[AbstractQueue, str] | None = None
        self._stopping = asyncio.Event()

    def __aiter__(self) -> _RabbitDeliveries:
        return self

    async def __anext__(self) -> RabbitDelivery:
        while (delivery := await self._inbox.get()) is not None:
            # One whose channel is gone is delivered again: working on it would be for nothing.
            if delivery.held:
                bus_metrics.delivered(self._queue, again=delivery.delivery_count > 0)
                return delivery
        self._inbox.put_nowait(None)
        raise StopAsyncIteration

    async def stop(self) -> None:
        """See `bus.Deliveries.stop`."""
        self._stopping.set()
        await self._end_consumer()

    async def begin(self, channel: AbstractChannel, on_lost: OnLost) -> None:
        """Consume on a new channel; `on_lost` is called when the broker ends the consumer."""
        if self._stopping.is_set():
            return
        await channel.set_qos(prefetch_count=self._prefetch)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(on_lost)
        queue = await channel.get_queue(self._queue, ensure=False)
        self._consumer = (queue, await queue.consume(self._receive))
        if self._stopping.is_set():
            await self._end_consumer()

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        # Runs in a task of the library, which a link loss cancels: so no work here.
        self._inbox.put_nowait(RabbitDelivery(message, self._reject))

    async def _end_consumer(self) -> None:
        # First the consumer, then its messages: the other way round they would come back to it.
        if self._consumer is not None:
            queue, tag = self._consumer
            self._consumer = None
            with suppress(LinkLost), translated_losses():
                await queue.cancel(tag, timeout=OPEN_TIMEOUT)
        while not self._inbox.empty():
            if delivery := self._inbox.get_nowait():
                await delivery.requeue()
        self._inbox.put_nowait(None)
