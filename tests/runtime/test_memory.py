"""The faults of the in-process bus, and how it shares its work."""

import asyncio

import pytest

from services.runtime.bus import BusUnavailable, OutgoingMessage
from services.runtime.memory import MemoryBus
from services.runtime.topology import Binding, Exchange, ExchangeType, Queue, Topology


def topology(pattern: str = "#") -> Topology:
    return Topology(
        exchanges=(Exchange(name="work", type=ExchangeType.TOPIC),),
        queues=(
            Queue(name="work.v1", delivery_limit=1),
            Queue(name="other.v1", dead_letter_exchange="work"),
        ),
        bindings=(
            Binding(exchange="work", routing_key=pattern, queue="work.v1"),
            Binding(exchange="work", routing_key="*.both", queue="other.v1"),
        ),
    )


def message(message_id: str, key: str = "job") -> OutgoingMessage:
    return OutgoingMessage(exchange="work", routing_key=key, body=b"", message_id=message_id)


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "ab", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("#.c", "a.b.c", True),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b", False),
        ("*", "", False),
        ("a.b", "a.b", True),
    ],
)
async def test_a_topic_pattern_matches_word_by_word(
    pattern: str, key: str, *, matches: bool
) -> None:
    async with MemoryBus(topology(pattern)) as bus:
        assert bool(bus._routed("work", key)) is matches


async def test_every_bound_queue_gets_its_copy() -> None:
    async with MemoryBus(topology()) as bus:
        await bus.publish(message("m", "to.both"))
        assert (bus.depth("work.v1"), bus.depth("other.v1")) == (1, 1)


async def test_consumers_take_turns() -> None:
    async with (
        MemoryBus(topology()) as bus,
        bus.consume("work.v1", prefetch=5) as one,
        bus.consume("work.v1", prefetch=5) as other,
    ):
        for number in range(4):
            await bus.publish(message(str(number)))
        assert [(await anext(one)).message_id for _ in range(2)] == ["0", "2"]
        assert [(await anext(other)).message_id for _ in range(2)] == ["1", "3"]


async def test_a_held_confirm_comes_when_it_is_released() -> None:
    async with MemoryBus(topology()) as bus:
        with bus.holding_confirms():
            with pytest.raises(BusUnavailable):
                await bus.publish(message("m"), timeout=0.01)
            assert bus.depth("work.v1") == 1
            publishing = asyncio.create_task(bus.publish(message("m")))
            await asyncio.sleep(0)
            assert not publishing.done()
        await publishing
        assert bus.depth("work.v1") == 2


async def test_a_refusing_bus_stores_nothing_until_it_relents() -> None:
    async with MemoryBus(topology()) as bus:
        with bus.refusing():
            publishing = asyncio.create_task(bus.publish(message("m")))
            with pytest.raises(BusUnavailable):
                await bus.publish(message("impatient"), timeout=0.01)
            assert bus.depth("work.v1") == 0
        await publishing
        assert bus.depth("work.v1") == 1


async def test_nothing_is_delivered_during_an_outage() -> None:
    async with MemoryBus(topology()) as bus:
        await bus.publish(message("m"))
        with bus.outage():
            async with bus.consume("work.v1", prefetch=1):
                assert bus.depth("work.v1") == 1


async def test_a_rejection_that_was_given_up_leaves_the_delivery_held() -> None:
    async with MemoryBus(topology()) as bus, bus.consume("other.v1", prefetch=1) as deliveries:
        await bus.publish(message("m", "to.both"))
        delivery = await anext(deliveries)
        with bus.refusing():
            rejecting = asyncio.create_task(delivery.reject("bad"))
            await asyncio.sleep(0)
            rejecting.cancel()
            await asyncio.wait([rejecting])
        assert (bus.depth("work.v1"), bus.held("other.v1")) == (1, 1)
        assert await delivery.ack()
        assert bus.held("other.v1") == 0


async def test_without_a_dead_letter_exchange_a_hopeless_message_is_dropped() -> None:
    async with MemoryBus(topology()) as bus, bus.consume("work.v1", prefetch=1) as deliveries:
        await bus.publish(message("m"))
        await (await anext(deliveries)).requeue()
        await (await anext(deliveries)).requeue()
        await bus.publish(message("next"))
        assert (await anext(deliveries)).message_id == "next"


async def test_a_closed_bus_takes_nothing() -> None:
    async with MemoryBus(topology()) as bus:
        pass
    with pytest.raises(BusUnavailable):
        await bus.publish(message("m"))
    with pytest.raises(BusUnavailable):
        await bus.check()
