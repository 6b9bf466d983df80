"""The exchanges, queues and bindings that the services share, as data.

A queue's name ends in its version: its arguments can not be changed in place, so a changed
argument is a new name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DELIVERY_LIMIT = 50
"""A backstop against a message that no consumer survives; the session service counts attempts."""
DEAD_EXCHANGE = "dead"
SUSPECT = "suspect"
"""Routing key of jobs that may have killed their worker: they are run one by one."""


class ExchangeType(Enum):
    """How an exchange matches routing keys to bindings."""

    DIRECT = "direct"
    TOPIC = "topic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: ExchangeType


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A durable, replicated (quorum) queue."""

    name: str
    delivery_limit: int | None = DELIVERY_LIMIT
    """Returns to the queue before it is dead-lettered; None: no limit."""
    dead_letter_exchange: str | None = None
    """Where messages over the limit and rejected messages go; None: they are dropped."""
    max_length: int | None = None
    """Further messages are refused (nacked) while the queue holds this many; None: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Messages of `exchange` whose routing key matches `routing_key` go to `queue`."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All that a bus declares when it connects."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]

    def home_of(self, routing_key: str) -> Binding:
        """Return where a dead letter of that key came from; no two exchanges share a key."""
        candidates = (
            binding
            for binding in self.bindings
            if binding.exchange != DEAD_EXCHANGE and binding.routing_key in (routing_key, "#")
        )
        return min(candidates, key=lambda binding: binding.routing_key == "#")

    def queue(self, name: str) -> Queue:
        """Return the queue of that name; LookupError if there is none."""
        for queue in self.queues:
            if queue.name == name:
                return queue
        raise LookupError(name)


def maieutic_topology() -> Topology:
    """Return what the services exchange.

    `turns` carries jobs to the workers of a lane, `results` outcomes and session events to the
    archive, `jobs` document work, and `dead` what could not even be read, with its reason.
    """
    return Topology(
        exchanges=(
            Exchange(name="turns", type=ExchangeType.DIRECT),
            Exchange(name="results", type=ExchangeType.TOPIC),
            Exchange(name="jobs", type=ExchangeType.DIRECT),
            Exchange(name=DEAD_EXCHANGE, type=ExchangeType.TOPIC),
        ),
        queues=(
            Queue(name="turns.interactive.v1", dead_letter_exchange=DEAD_EXCHANGE),
            Queue(name="turns.analysis.v1", dead_letter_exchange=DEAD_EXCHANGE),
            Queue(name="turns.long.v1", dead_letter_exchange=DEAD_EXCHANGE),
            Queue(name="turns.suspect.v1", dead_letter_exchange=DEAD_EXCHANGE),
            Queue(name="persist.v1", dead_letter_exchange=DEAD_EXCHANGE),
            Queue(name="jobs.ingest.v1", dead_letter_exchange=DEAD_EXCHANGE),
            Queue(name="dead.v1", delivery_limit=None),
        ),
        bindings=(
            Binding(exchange="turns", routing_key="interactive", queue="turns.interactive.v1"),
            Binding(exchange="turns", routing_key="analysis", queue="turns.analysis.v1"),
            Binding(exchange="turns", routing_key="long", queue="turns.long.v1"),
            Binding(exchange="turns", routing_key=SUSPECT, queue="turns.suspect.v1"),
            Binding(exchange="results", routing_key="#", queue="persist.v1"),
            Binding(exchange="jobs", routing_key="ingest", queue="jobs.ingest.v1"),
            Binding(exchange=DEAD_EXCHANGE, routing_key="#", queue="dead.v1"),
        ),
    )
