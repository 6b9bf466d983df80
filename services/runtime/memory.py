"""The bus inside one process: the same port, for the embedded mode and for tests.

It behaves as RabbitMQ's quorum queues do: first in first out, prefetch, what comes back goes to the
front and counts, too many returns go to the dead-letter exchange. It keeps nothing when the process
ends; whoever needs its messages afterwards must be able to publish them again.

Its faults are methods, so that what a broker does on a bad day can be done on purpose.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from types import TracebackType
from typing import Self

from services.runtime import bus_metrics
from services.runtime.bus import BusUnavailable, Deliveries, OutgoingMessage, Unroutable
from services.runtime.topology import ExchangeType, Queue, Topology

_LOG = logging.getLogger(__name__)

REJECT_TIMEOUT = 10.0
"""Seconds for the dead-letter exchange to confirm a rejected message."""
DELIVERY_LIMIT_REASON = "delivery_limit"
"""The broker's own reason; RabbitMQ calls it the same."""


class MemoryBus:
    """`bus.Bus` within one event loop.

    The fault hooks are `drop_connections`, `outage`, `refusing` and `holding_confirms`.
    """

    def __init__(self, topology: Topology) -> None:
        """Start with the queues of `topology`, empty."""
        self._topology = topology
        self._exchanges = {exchange.name: exchange.type for exchange in topology.exchanges}
        self._state = _State()
        self._queues = {
            queue.name: _MemoryQueue(queue, self._state, self._dead_letter)
            for queue in topology.queues
        }

    async def __aenter__(self) -> Self:
        """Return the bus; it is usable at once."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Refuse everything from now on."""
        self._state.open = False
        self.drop_connections()
        self._state.changed()

    async def publish(self, message: OutgoingMessage, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - covers the waiting
        """See `bus.Bus.publish`."""
        with bus_metrics.publishing(message, system="memory") as headers:
            stored = _Stored(
                body=message.body,
                message_id=message.message_id,
                routing_key=message.routing_key,
                headers=headers,
            )
            await self._store(message.exchange, stored, timeout)

    @asynccontextmanager
    async def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[Deliveries]:
        """See `bus.Bus.consume`."""
        self._topology.queue(queue)
        source = self._queues[queue]
        consumer = _MemoryDeliveries(source, prefetch, self._store)
        source.attach(consumer)
        try:
            yield consumer
        finally:
            source.detach(consumer)

    async def check(self) -> None:
        """See `bus.Bus.check`."""
        if not self._state.linked:
            raise BusUnavailable("the in-process bus is closed or in an outage")

    def depth(self, queue: str) -> int:
        """Return how many messages wait in a queue, without those that a consumer holds."""
        return len(self._queues[queue])

    def held(self, queue: str) -> int:
        """Return how many messages of a queue consumers hold: delivered, and not answered."""
        return self._queues[queue].held

    def drop_connections(self) -> None:
        """Break every link and connect again at once.

        What consumers hold is delivered again, and answers to it come too late.
        """
        for queue in self._queues.values():
            queue.take_all_back()
        self._dispatch()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be out of reach until the context is left: nothing stored, nothing delivered."""
        self._state.reachable = False
        self.drop_connections()
        try:
            yield
        finally:
            self._state.reachable = True
            self._state.changed()
            self._dispatch()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Answer every publish with a nack until the context is left."""
        self._state.refusing = True
        try:
            yield
        finally:
            self._state.refusing = False
            self._state.changed()

    @contextmanager
    def holding_confirms(self) -> Iterator[None]:
        """Store and deliver, but confirm only once the context is left."""
        self._state.confirming = False
        try:
            yield
        finally:
            self._state.confirming = True
            self._state.changed()

    async def _store(self, exchange: str, stored: _Stored, timeout: float) -> None:  # noqa: ASYNC109 - covers the waiting
        queues = self._routed(exchange, stored.routing_key)
        if not queues:
            raise Unroutable(f"no queue is bound to {exchange!r} for {stored.routing_key!r}")
        try:
            async with asyncio.timeout(timeout):
                await self._until_confirmed(queues, stored)
        except TimeoutError as error:
            raise BusUnavailable(f"not confirmed within {timeout} s") from error

    async def _until_confirmed(self, queues: list[_MemoryQueue], stored: _Stored) -> None:
        while not self._accepts(queues):
            await self._state.change()
        for queue in queues:
            queue.put(stored)
        # A confirm from a broker always takes a turn of the loop; without one a publisher in a
        # tight loop would starve its consumers here, and only here.
        await asyncio.sleep(0)
        while not self._state.confirming:
            await self._state.change()

    def _accepts(self, queues: list[_MemoryQueue]) -> bool:
        if not self._state.open:
            raise BusUnavailable("the in-process bus is closed")
        free = not any(queue.full for queue in queues)
        return free and self._state.reachable and not self._state.refusing

    def _dispatch(self) -> None:
        for queue in self._queues.values():
            queue.dispatch()

    def _routed(self, exchange: str, routing_key: str) -> list[_MemoryQueue]:
        names = {
            binding.queue: None
            for binding in self._topology.bindings
            if binding.exchange == exchange
            and _matches(self._exchanges[exchange], binding.routing_key, routing_key)
        }
        return [self._queues[name] for name in names]

    def _dead_letter(self, queue: Queue, stored: _Stored, reason: str) -> None:
        exchange = queue.dead_letter_exchange
        targets = self._routed(exchange, stored.routing_key) if exchange else []
        for target in targets:
            target.put(replace(stored, dead_reason=reason, delivery_count=0))
        if not targets:
            _LOG.warning("dropped message %s of %s: %s", stored.message_id, queue.name, reason)


def _matches(kind: ExchangeType, pattern: str, routing_key: str) -> bool:
    if kind is ExchangeType.DIRECT:
        return pattern == routing_key
    return _words_match(pattern.split("."), routing_key.split(".") if routing_key else [])


def _words_match(pattern: list[str], words: list[str]) -> bool:
    """Match word by word: `*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_words_match(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _words_match(pattern[1:], words[1:])


class _State:
    """What the links are like, and who waits for them to change."""

    def __init__(self) -> None:
        self.open = True
        self.reachable = True
        self.refusing = False
        self.confirming = True
        self._event = asyncio.Event()

    @property
    def linked(self) -> bool:
        return self.open and self.reachable

    async def change(self) -> None:
        await self._event.wait()

    def changed(self) -> None:
        """Wake everyone who waits now."""
        self._event.set()
        self._event = asyncio.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """A message in a queue."""

    body: bytes
    message_id: str
    routing_key: str
    headers: Mapping[str, str]
    delivery_count: int = 0
    dead_reason: str | None = None


class _MemoryQueue:
    """Messages that wait, and the consumers that take turns."""

    def __init__(
        self,
        definition: Queue,
        state: _State,
        dead_letter: Callable[[Queue, _Stored, str], None],
    ) -> None:
        self.definition = definition
        self._ready: deque[_Stored] = deque()
        self._consumers: deque[_MemoryDeliveries] = deque()
        self._state = state
        self._dead_letter = dead_letter

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def held(self) -> int:
        return sum(consumer.held for consumer in self._consumers)

    @property
    def full(self) -> bool:
        limit = self.definition.max_length
        return limit is not None and len(self._ready) >= limit

    def put(self, message: _Stored) -> None:
        self._ready.append(message)
        self.dispatch()

    def attach(self, consumer: _MemoryDeliveries) -> None:
        self._consumers.append(consumer)
        self.dispatch()

    def detach(self, consumer: _MemoryDeliveries) -> None:
        self._consumers.remove(consumer)
        self.give_back(consumer.taken_back())

    def take_all_back(self) -> None:
        for consumer in self._consumers:
            self._return(consumer.taken_back())

    def give_back(self, messages: list[_Stored]) -> None:
        self._return(messages)
        self.dispatch()

    def dispatch(self) -> None:
        """Hand out what waits, in turns, to the consumers that have room."""
        busy = 0
        while self._state.linked and self._ready and busy < len(self._consumers):
            consumer = self._consumers[0]
            self._consumers.rotate(-1)
            if consumer.has_room:
                consumer.receive(self._ready.popleft())
                busy = 0
            else:
                busy += 1
        if self.definition.max_length is not None:
            self._state.changed()

    def _return(self, messages: list[_Stored]) -> None:
        """Put back in front, in order, what was delivered in vain, or give it up."""
        limit = self.definition.delivery_limit
        returned = [replace(one, delivery_count=one.delivery_count + 1) for one in messages]
        kept = [one for one in returned if limit is None or one.delivery_count <= limit]
        self._ready.extendleft(reversed(kept))
        for one in returned:
            if limit is not None and one.delivery_count > limit:
                self._dead_letter(self.definition, one, DELIVERY_LIMIT_REASON)


StoreDead = Callable[[str, _Stored, float], Awaitable[None]]


class _MemoryDeliveries:
    """`bus.Deliveries` of one consumer."""

    def __init__(self, source: _MemoryQueue, prefetch: int, store: StoreDead) -> None:
        self._source = source
        self._prefetch = prefetch
        self._store = store
        self._tags = count()
        self._held: dict[int, _Stored] = {}
        self._inbox: asyncio.Queue[MemoryDelivery | None] = asyncio.Queue()
        self._stopped = False

    def __aiter__(self) -> _MemoryDeliveries:
        return self

    async def __anext__(self) -> MemoryDelivery:
        while (delivery := await self._inbox.get()) is not None:
            # What was taken back meanwhile is delivered again.
            if self.holds(delivery.tag):
                queue = self._source.definition.name
                bus_metrics.delivered(queue, again=delivery.delivery_count > 0)
                return delivery
        self._inbox.put_nowait(None)
        raise StopAsyncIteration

    async def stop(self) -> None:
        """See `bus.Deliveries.stop`."""
        if self._stopped:
            return
        self._stopped = True
        waiting: list[_Stored] = []
        while not self._inbox.empty():
            delivery = self._inbox.get_nowait()
            stored = self._held.pop(delivery.tag, None) if delivery else None
            if stored:
                waiting.append(stored)
        self._inbox.put_nowait(None)
        self._source.give_back(waiting)

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def has_room(self) -> bool:
        return not self._stopped and len(self._held) < self._prefetch

    def receive(self, message: _Stored) -> None:
        tag = next(self._tags)
        self._held[tag] = message
        self._inbox.put_nowait(MemoryDelivery(self, tag, message))

    def taken_back(self) -> list[_Stored]:
        """Stop holding all that is not answered, and return it in the order of delivery."""
        messages = list(self._held.values())
        self._held.clear()
        return messages

    def holds(self, tag: int) -> bool:
        return tag in self._held

    def settle(self, tag: int) -> bool:
        """Forget an answered delivery; False if it was taken back."""
        settled = self._held.pop(tag, None) is not None
        self._source.dispatch()
        return settled

    def requeue(self, tag: int) -> None:
        message = self._held.pop(tag, None)
        if message:
            self._source.give_back([message])

    async def reject(self, tag: int, reason: str) -> None:
        message = self._held.get(tag)
        exchange = self._source.definition.dead_letter_exchange
        if message and exchange:
            dead = replace(message, dead_reason=reason, delivery_count=0)
            try:
                await self._store(exchange, dead, REJECT_TIMEOUT)
            except Unroutable as error:
                raise BusUnavailable(f"nowhere to keep what is dead: {error}") from error
        self.settle(tag)


class MemoryDelivery:
    """`bus.Delivery` of one message from the in-process bus."""

    __slots__ = ("_consumer", "_message", "tag")

    def __init__(self, consumer: _MemoryDeliveries, tag: int, message: _Stored) -> None:
        """Answer to `consumer`, which knows the delivery by its tag."""
        self._consumer = consumer
        self._message = message
        self.tag = tag

    @property
    def body(self) -> bytes:
        """See `bus.Delivery.body`."""
        return self._message.body

    @property
    def message_id(self) -> str:
        """See `bus.Delivery.message_id`."""
        return self._message.message_id

    @property
    def routing_key(self) -> str:
        """See `bus.Delivery.routing_key`."""
        return self._message.routing_key

    @property
    def headers(self) -> Mapping[str, str]:
        """See `bus.Delivery.headers`."""
        return self._message.headers

    @property
    def delivery_count(self) -> int:
        """See `bus.Delivery.delivery_count`."""
        return self._message.delivery_count

    @property
    def dead_reason(self) -> str | None:
        """See `bus.Delivery.dead_reason`."""
        return self._message.dead_reason

    async def ack(self) -> bool:
        """See `bus.Delivery.ack`."""
        return self._consumer.settle(self.tag)

    async def requeue(self) -> None:
        """See `bus.Delivery.requeue`."""
        self._consumer.requeue(self.tag)

    async def reject(self, reason: str) -> None:
        """See `bus.Delivery.reject`."""
        await self._consumer.reject(self.tag, reason)
