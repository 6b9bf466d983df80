"""What only the RabbitMQ adapter has to stand: nodes that die, links that hang."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import pytest

from services.runtime.bus import BusUnavailable, Deliveries, OutgoingMessage, Unroutable
from services.runtime.rabbitmq import RabbitMQBus
from services.runtime.topology import Queue, Topology, maieutic_topology
from tests.backends.process import free_port
from tests.backends.rabbitmq import RabbitNode, rabbitmq
from tests.contracts.buses import Names, held_back, removed_afterwards
from tests.proxy import Direction, Proxy, proxy
from tests.waiting import wait_until

SOON = 20.0


@pytest.fixture
async def names(rabbit_node: RabbitNode) -> AsyncIterator[Names]:
    found = Names()
    async with removed_afterwards(rabbit_node.url, found.topology()):
        yield found


def work(names: Names, message_id: str, *, key: str = "job") -> OutgoingMessage:
    return OutgoingMessage(
        exchange=names.work, routing_key=key, body=b"", message_id=message_id, headers={"a": "b"}
    )


@asynccontextmanager
async def bus_through(link: Proxy, names: Names) -> AsyncIterator[RabbitMQBus]:
    url = f"amqp://guest:guest@127.0.0.1:{link.port}/"
    async with RabbitMQBus.connect(url, names.topology()) as bus:
        yield bus


async def reachable(bus: RabbitMQBus) -> bool:
    try:
        await bus.check()
    except BusUnavailable:
        return False
    return True


async def next_id(deliveries: Deliveries) -> str:
    async with asyncio.timeout(SOON):
        delivery = await anext(deliveries)
    await delivery.ack()
    return delivery.message_id


async def test_a_dead_node_is_passed_over_for_the_next(
    rabbit_node: RabbitNode, names: Names
) -> None:
    urls = f"amqp://guest:guest@127.0.0.1:{free_port()}/, {rabbit_node.url}"
    async with RabbitMQBus.connect(urls, names.topology()) as bus:
        await bus.publish(work(names, "m"), timeout=SOON)


async def test_a_bus_without_any_url_is_refused() -> None:
    with pytest.raises(ValueError, match="URL"):
        async with RabbitMQBus.connect(" , ", Names().topology()):
            pass


async def test_a_bus_opens_before_its_broker(rabbit_node: RabbitNode, names: Names) -> None:
    async with proxy(rabbit_node.port) as link:
        await link.refuse()
        async with (
            bus_through(link, names) as bus,
            bus.consume(names.work_queue, prefetch=1) as deliveries,
        ):
            assert not await reachable(bus)
            link.accept()
            await bus.publish(work(names, "m"), timeout=SOON)
            assert await next_id(deliveries) == "m"
            assert await reachable(bus)


async def test_a_publish_outlives_any_way_to_lose_its_link(
    rabbit_node: RabbitNode, names: Names
) -> None:
    async with proxy(rabbit_node.port) as link, bus_through(link, names) as bus:
        for number in range(5):
            async with link.paused(Direction.TO_CLIENT):
                publishing = asyncio.create_task(bus.publish(work(names, f"m{number}"), timeout=60))
                await asyncio.sleep(0.02)
                await link.cut()
            await publishing


async def test_a_link_that_hangs_leaves_a_publish_unconfirmed(
    rabbit_node: RabbitNode, names: Names
) -> None:
    async with proxy(rabbit_node.port) as link, bus_through(link, names) as bus:
        await bus.publish(work(names, "before"))
        async with link.paused(Direction.TO_CLIENT):
            with pytest.raises(BusUnavailable):
                await bus.publish(work(names, "m"), timeout=0.3)
        # It was stored, only the confirm hung: so the second attempt makes a second copy.
        await bus.publish(work(names, "m"), timeout=SOON)
        async with bus.consume(names.work_queue, prefetch=10) as deliveries:
            assert [await next_id(deliveries) for _ in range(3)] == ["before", "m", "m"]


async def test_a_link_that_hangs_for_good_is_given_up_for_a_new_one(
    rabbit_node: RabbitNode, names: Names
) -> None:
    async with proxy(rabbit_node.port) as link:
        url = f"amqp://guest:guest@127.0.0.1:{link.port}/?heartbeat=1"
        async with RabbitMQBus.connect(url, names.topology()) as bus:
            await bus.publish(work(names, "before"), timeout=SOON)
            async with link.paused(Direction.TO_CLIENT):
                publishing = asyncio.create_task(bus.publish(work(names, "m"), timeout=60))
                await wait_until(lambda: bus._links.publishing.current is None, timeout=30)
            await publishing


async def test_nothing_confirmed_is_lost_when_the_node_is_killed() -> None:
    names = Names()
    sent = [f"m{number}" for number in range(400)]
    arrived: set[str] = set()

    async def consume(bus: RabbitMQBus) -> None:
        async with bus.consume(names.work_queue, prefetch=50) as deliveries:
            async for delivery in deliveries:
                arrived.add(delivery.message_id)
                await delivery.ack()

    async with rabbitmq() as node, RabbitMQBus.connect(node.url, names.topology()) as bus:
        await bus.publish(work(names, sent[0]), timeout=SOON)
        await node.keeps(names.work_queue)
        consuming = asyncio.create_task(consume(bus))
        for message_id in sent[1:200]:
            await bus.publish(work(names, message_id))
        publishing = asyncio.gather(
            *(bus.publish(work(names, message_id), timeout=90) for message_id in sent[200:])
        )
        await wait_until(lambda: len(arrived) > 100)
        await node.kill9()
        await node.start()
        await publishing
        await wait_until(lambda: arrived == set(sent), timeout=60)
        consuming.cancel()
        await asyncio.wait([consuming])


async def test_a_consumer_that_the_broker_ends_begins_again(
    rabbit_node: RabbitNode, names: Names
) -> None:
    async def routable(bus: RabbitMQBus) -> bool:
        try:
            await bus.publish(work(names, "after"))
        except Unroutable:
            return False
        return True

    async with (
        RabbitMQBus.connect(rabbit_node.url, names.topology()) as bus,
        bus.consume(names.work_queue, prefetch=1) as deliveries,
    ):
        await bus.publish(work(names, "before"), timeout=SOON)
        assert await next_id(deliveries) == "before"
        await deleted(rabbit_node, names.work_queue)
        await wait_until(lambda: routable(bus))
        assert await next_id(deliveries) == "after"


async def deleted(node: RabbitNode, queue: str) -> None:
    async with await aio_pika.connect(node.url) as connection, connection.channel() as channel:
        await channel.queue_delete(queue)


async def test_a_channel_that_only_refuses_is_opened_again(
    rabbit_node: RabbitNode, names: Names
) -> None:
    async with RabbitMQBus.connect(rabbit_node.url, names.topology()) as bus:
        await bus.publish(work(names, "before"), timeout=SOON)
        first = bus._links.channel.current
        patient, publishing = await held_back(bus, lambda number: work(names, number, key="narrow"))
        await wait_until(lambda: bus._links.channel.current not in (None, first), SOON)
        async with bus.consume(names.narrow_queue, prefetch=1) as deliveries:
            while await next_id(deliveries) != patient:
                pass
        await publishing


async def test_a_queue_with_other_arguments_is_named_by_the_check(
    rabbit_node: RabbitNode, names: Names
) -> None:
    topology = names.topology()
    changed = Topology(exchanges=(), queues=(Queue(name=names.work_queue),), bindings=())
    async with RabbitMQBus.connect(rabbit_node.url, topology) as bus:
        await bus.publish(work(names, "m"), timeout=SOON)
    async with RabbitMQBus.connect(rabbit_node.url, changed) as bus:
        await wait_until(lambda: complains(bus, "inequivalent arg"))


async def complains(bus: RabbitMQBus, text: str) -> bool:
    try:
        await bus.check()
    except BusUnavailable as error:
        return text in str(error)
    return False


async def test_a_wrong_password_is_named_by_the_check_and_not_shown(
    rabbit_node: RabbitNode, names: Names
) -> None:
    url = rabbit_node.url.replace("guest:guest", "guest:h0rsebattery")
    async with RabbitMQBus.connect(url, names.topology()) as bus:
        await wait_until(lambda: complains(bus, "ACCESS_REFUSED"))
        with pytest.raises(BusUnavailable, match="ACCESS_REFUSED"):
            await bus.publish(work(names, "m"), timeout=0.1)
        assert not await complains(bus, "h0rsebattery")


async def test_the_services_topology_can_be_declared_again_and_again(
    rabbit_node: RabbitNode,
) -> None:
    topology = maieutic_topology()
    async with removed_afterwards(rabbit_node.url, topology):
        for number in range(2):
            async with RabbitMQBus.connect(rabbit_node.url, topology) as bus:
                await bus.publish(
                    OutgoingMessage(
                        exchange="results",
                        routing_key="turn.finished",
                        body=b"",
                        message_id=str(number),
                    ),
                    timeout=SOON,
                )


async def test_headers_that_are_no_text_are_left_out(rabbit_node: RabbitNode, names: Names) -> None:
    async with RabbitMQBus.connect(rabbit_node.url, names.topology()) as bus:
        await bus.publish(work(names, "ours"), timeout=SOON)
        async with await aio_pika.connect(rabbit_node.url) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(names.work, ensure=False)
            foreign = aio_pika.Message(
                b"", headers={"n": 1, "list": [1], "none": None, "t": "x", "x-delivery-count": "no"}
            )
            await exchange.publish(foreign, "job")
        async with bus.consume(names.work_queue, prefetch=2) as deliveries:
            assert await next_id(deliveries) == "ours"
            delivery = await anext(deliveries)
            assert delivery.headers == {"t": "x"}
            assert delivery.delivery_count == 0


async def test_a_closed_bus_leaves_no_task_behind(rabbit_node: RabbitNode, names: Names) -> None:
    before = asyncio.all_tasks()
    async with (
        proxy(rabbit_node.port) as link,
        bus_through(link, names) as bus,
        bus.consume(names.work_queue, prefetch=1) as deliveries,
    ):
        await bus.publish(work(names, "m"), timeout=SOON)
        await next_id(deliveries)
        await link.cut()
        await bus.publish(work(names, "m"), timeout=SOON)
    await wait_until(lambda: asyncio.all_tasks() == before)


async def test_a_bus_can_be_closed_at_any_moment_of_its_opening(
    rabbit_node: RabbitNode, names: Names
) -> None:
    """The library may swallow a cancellation, or forget a connection that is half open."""
    before = asyncio.all_tasks()
    refused_url = rabbit_node.url.replace("guest:guest", "guest:wrong")

    async def open_and_close(url: str, after: float) -> None:
        async with (
            RabbitMQBus.connect(url, names.topology()) as bus,
            bus.consume(names.work_queue, prefetch=1),
        ):
            await asyncio.sleep(after)

    async with asyncio.timeout(60):
        for step in range(20):
            await asyncio.gather(
                *(open_and_close(rabbit_node.url, step * 0.004 + late) for late in (0, 0.001)),
                *(open_and_close(refused_url, step * 0.01 + late) for late in (0, 0.005)),
            )
        await wait_until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})
