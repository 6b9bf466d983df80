"""The port to the message bus: publish with a confirm, consume with acknowledgements.

Delivery is at least once. A message that is confirmed is stored, and stays stored until a consumer
acknowledges it; any message may be delivered again, so consumers must recognise what they have
done. The adapters are `rabbitmq.RabbitMQBus` and `memory.MemoryBus`; one contract suite holds for
both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager


class BusError(Exception):
    """What a bus can refuse or fail to do."""


class BusUnavailable(BusError):
    """The broker did not confirm in time.

    The message may or may not be stored: publish the same message id again.
    """


class Unroutable(BusError):
    """No queue is bound for this exchange and routing key: the topology is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message on its way to an exchange."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    """The same for every attempt to publish the same fact."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Text only; the bus adds the trace context. Names that begin with `x-` are the broker's."""

    def __post_init__(self) -> None:
        """Raise ValueError for a header that a consumer could not tell from the broker's own."""
        for name in self.headers:
            if name.startswith("x-"):
                raise ValueError(f"header {name!r}: names that begin with x- are the broker's")


class Delivery(Protocol):
    """One delivery of a message; it is held until `ack`, `requeue` or `reject`.

    None of the three raises when the link that brought the delivery is gone: the broker hands the
    message out again by itself, and that new delivery is the one to answer. Only the first answer
    counts; the others do nothing.
    """

    @property
    def body(self) -> bytes:
        """The message body, as it was published."""
        ...

    @property
    def message_id(self) -> str:
        """The publisher's id; empty if it gave none."""
        ...

    @property
    def routing_key(self) -> str:
        """The key it was published with (on a dead-letter queue: the original one)."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The publisher's headers, text only."""
        ...

    @property
    def delivery_count(self) -> int:
        """How many times it was delivered before and came back: 0 the first time."""
        ...

    @property
    def dead_reason(self) -> str | None:
        """Why it was dead-lettered: the consumer's reason or the broker's; None if it was not."""
        ...

    async def ack(self) -> bool:
        """Say that it is done.

        Returns False if the link that brought it is gone: the broker will deliver it again. True
        is no promise that it will not, for the link may break before the broker has read it.
        """
        ...

    async def requeue(self) -> None:
        """Hand it back to its queue; this counts as a delivery."""
        ...

    async def reject(self, reason: str) -> None:
        """Move it to the queue's dead-letter exchange with a reason that people can read.

        A queue without one drops it.

        Raises BusUnavailable if the dead-letter exchange did not confirm it: then it is still
        held and may be rejected again.
        """
        ...


class Deliveries(Protocol):
    """What a consumer receives, one delivery after the other."""

    def __aiter__(self) -> AsyncIterator[Delivery]:
        """Iterate until `stop`."""
        ...

    async def __anext__(self) -> Delivery:
        """Wait for the next delivery; raises StopAsyncIteration after `stop`."""
        ...

    async def stop(self) -> None:
        """Receive no more, to drain: what was not handed out goes back, what is held may finish.

        Deliveries that are held can still be answered until the context is left.
        """
        ...


class Bus(Protocol):
    """A link to the broker with a declared topology."""

    async def publish(self, message: OutgoingMessage, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - the bus retries inside it
        """Return once the broker has confirmed that the message is stored.

        `timeout` is in seconds and covers every retry (link lost, message refused), all with the
        same message id. Raises BusUnavailable if it was not confirmed by then, and Unroutable if
        no queue is bound for it.
        """
        ...

    def consume(self, queue: str, *, prefetch: int) -> AbstractAsyncContextManager[Deliveries]:
        """Receive from a queue, with at most `prefetch` deliveries unanswered at a time.

        The iterator survives the loss of the link: it goes on after the reconnection, and never
        cancels the task that iterates. Leaving the context cancels the consumer; whatever is not
        answered by then goes back to the queue. Raises LookupError for a queue that is not in
        the topology.
        """
        ...

    async def check(self) -> None:
        """Return if a message could be published now; raise BusUnavailable if not (readiness)."""
        ...
