"""The contract of the bus, on every adapter."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from services.runtime.bus import (
    Bus,
    BusUnavailable,
    Deliveries,
    Delivery,
    OutgoingMessage,
    Unroutable,
)
from services.runtime.memory import MemoryBus
from services.runtime.names import (
    BUS_DELIVERED,
    BUS_DESTINATION,
    BUS_FAILURES,
    BUS_MESSAGE_ID,
    BUS_PUBLISH_DURATION,
    BUS_REDELIVERED,
    ERROR_TYPE,
)
from services.runtime.rabbitmq import RabbitMQBus
from services.runtime.telemetry import TelemetryOptions, links_to, span, telemetry
from tests.backends.rabbitmq import RabbitNode
from tests.contracts.buses import (
    DELIVERY_LIMIT,
    BusHarness,
    MemoryHarness,
    Names,
    RabbitHarness,
    held_back,
    removed_afterwards,
)
from tests.proxy import proxy
from tests.recorded import recording, span_id
from tests.waiting import wait_until

SOON = 20.0


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture(params=["memory", "rabbitmq"])
def node(request: pytest.FixtureRequest) -> RabbitNode | None:
    """The broker, or None for the bus that needs none; started only if it is asked for."""
    if request.param == "memory":
        return None
    found: RabbitNode = request.getfixturevalue("rabbit_node")
    return found


@pytest.fixture
async def harness(node: RabbitNode | None, names: Names) -> AsyncIterator[BusHarness]:
    topology = names.topology()
    if node is None:
        async with MemoryBus(topology) as memory:
            yield MemoryHarness(memory)
        return
    async with removed_afterwards(node.url, topology), proxy(node.port) as link:
        url = f"amqp://guest:guest@127.0.0.1:{link.port}/"
        async with RabbitMQBus.connect(url, topology) as rabbit:
            yield RabbitHarness(rabbit, link)


@pytest.fixture
def bus(harness: BusHarness) -> Bus:
    return harness.bus


@pytest.fixture
def work(names: Names) -> "Work":
    return Work(names)


class Work:
    """Makes messages for the work exchange."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def __call__(
        self,
        message_id: str,
        *,
        key: str = "job.plain",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> OutgoingMessage:
        return OutgoingMessage(
            exchange=self._names.work,
            routing_key=key,
            body=body,
            message_id=message_id,
            headers=headers or {},
        )


async def received(deliveries: Deliveries) -> Delivery:
    async with asyncio.timeout(SOON):
        return await anext(deliveries)


async def reachable(bus: Bus) -> bool:
    try:
        await bus.check()
    except BusUnavailable:
        return False
    return True


async def unreachable(bus: Bus) -> bool:
    return not await reachable(bus)


async def test_messages_arrive_in_the_order_they_were_published(
    bus: Bus, names: Names, work: Work
) -> None:
    sent = [f"m{number}" for number in range(30)]
    for message_id in sent:
        await bus.publish(work(message_id))
    async with bus.consume(names.work_queue, prefetch=5) as deliveries:
        arrived = []
        for _ in sent:
            delivery = await received(deliveries)
            arrived.append(delivery.message_id)
            assert await delivery.ack()
    assert arrived == sent


async def test_a_consumer_holds_no_more_than_its_prefetch(
    bus: Bus, names: Names, work: Work
) -> None:
    async with bus.consume(names.work_queue, prefetch=2) as slow:
        for number in range(5):
            await bus.publish(work(f"m{number}"))
        held = [await received(slow), await received(slow)]
        async with bus.consume(names.work_queue, prefetch=10) as other:
            rest = [(await received(other)).message_id for _ in range(3)]
    assert [one.message_id for one in held] == ["m0", "m1"]
    assert rest == ["m2", "m3", "m4"]


async def test_an_answer_makes_room_for_the_next_message(
    bus: Bus, names: Names, work: Work
) -> None:
    await bus.publish(work("first"))
    await bus.publish(work("second"))
    async with bus.consume(names.work_queue, prefetch=1) as deliveries:
        await (await received(deliveries)).ack()
        assert (await received(deliveries)).message_id == "second"


async def test_what_a_consumer_leaves_unanswered_comes_back_in_front(
    bus: Bus, names: Names, work: Work
) -> None:
    for message_id in ("held", "seen", "next"):
        await bus.publish(work(message_id))
    async with bus.consume(names.work_queue, prefetch=2) as leaving:
        assert (await received(leaving)).delivery_count == 0
    async with bus.consume(names.work_queue, prefetch=3) as staying:
        again = [await received(staying) for _ in range(3)]
    assert [one.message_id for one in again] == ["held", "seen", "next"]
    assert [one.delivery_count for one in again] == [1, 1, 0]


async def test_an_answer_after_leaving_comes_too_late(bus: Bus, names: Names, work: Work) -> None:
    await bus.publish(work("m"))
    async with bus.consume(names.work_queue, prefetch=1) as leaving:
        delivery = await received(leaving)
    assert not await delivery.ack()
    await delivery.requeue()
    await delivery.reject("too late")
    async with (
        bus.consume(names.work_queue, prefetch=1) as staying,
        bus.consume(names.dead_queue, prefetch=1) as dead,
    ):
        await (await received(staying)).reject("in time")
        assert (await received(dead)).dead_reason == "in time"


async def test_a_message_handed_back_counts_its_deliveries(
    bus: Bus, names: Names, work: Work
) -> None:
    await bus.publish(work("m"))
    async with bus.consume(names.work_queue, prefetch=1) as deliveries:
        counts = []
        for _ in range(DELIVERY_LIMIT + 1):
            delivery = await received(deliveries)
            counts.append(delivery.delivery_count)
            if delivery.delivery_count < DELIVERY_LIMIT:
                await delivery.requeue()
    assert counts == [0, 1, 2]


async def test_a_message_over_the_delivery_limit_is_dead_with_the_reason(
    bus: Bus, names: Names, work: Work
) -> None:
    await bus.publish(work("poison", key="job.poison", body=b"x", headers={"traceparent": "t"}))
    async with (
        bus.consume(names.work_queue, prefetch=1) as deliveries,
        bus.consume(names.dead_queue, prefetch=1) as dead,
    ):
        for _ in range(DELIVERY_LIMIT + 1):
            await (await received(deliveries)).requeue()
        buried = await received(dead)
        assert buried.dead_reason == "delivery_limit"
        assert (buried.message_id, buried.body) == ("poison", b"x")
        assert buried.routing_key == "job.poison"
        assert buried.headers == {"traceparent": "t"}
        assert await buried.ack()


async def test_a_rejected_message_is_dead_with_the_consumers_reason(
    bus: Bus, names: Names, work: Work
) -> None:
    await bus.publish(work("bad", key="job.odd", body=b"\xff", headers={"traceparent": "t"}))
    async with (
        bus.consume(names.work_queue, prefetch=1) as deliveries,
        bus.consume(names.dead_queue, prefetch=1) as dead,
    ):
        delivery = await received(deliveries)
        assert delivery.dead_reason is None
        await delivery.reject("not a RunTurn: ünreadable")
        buried = await received(dead)
        assert buried.dead_reason == "not a RunTurn: ünreadable"
        assert (buried.message_id, buried.body) == ("bad", b"\xff")
        assert buried.routing_key == "job.odd"
        assert buried.headers == {"traceparent": "t"}
        assert buried.delivery_count == 0


async def test_a_rejected_message_leaves_its_queue(bus: Bus, names: Names, work: Work) -> None:
    await bus.publish(work("bad"))
    await bus.publish(work("good"))
    async with bus.consume(names.work_queue, prefetch=1) as deliveries:
        await (await received(deliveries)).reject("bad")
    async with bus.consume(names.work_queue, prefetch=1) as deliveries:
        assert (await received(deliveries)).message_id == "good"


async def test_a_rejection_that_nobody_keeps_leaves_the_message_held(
    bus: Bus, names: Names, work: Work
) -> None:
    await bus.publish(work("m", key="lonely"))
    async with bus.consume(names.lonely_queue, prefetch=1) as deliveries:
        delivery = await received(deliveries)
        with pytest.raises(BusUnavailable):
            await delivery.reject("bad")
        assert await delivery.ack()


async def test_only_the_first_answer_counts(bus: Bus, names: Names, work: Work) -> None:
    await bus.publish(work("m"))
    await bus.publish(work("next"))
    async with bus.consume(names.work_queue, prefetch=1) as deliveries:
        delivery = await received(deliveries)
        assert await delivery.ack()
        await delivery.requeue()
        await delivery.reject("no")
        assert not await delivery.ack()
        assert (await received(deliveries)).message_id == "next"


async def test_a_confirmed_message_is_stored(harness: BusHarness, names: Names, work: Work) -> None:
    await harness.bus.publish(work("m"))
    await harness.drop_links()
    async with harness.bus.consume(names.work_queue, prefetch=1) as deliveries:
        assert (await received(deliveries)).message_id == "m"


async def test_a_lost_link_leaves_the_work_running_and_delivers_again(
    harness: BusHarness, names: Names, work: Work
) -> None:
    go_on = asyncio.Event()

    async def handler(delivery: Delivery) -> bool:
        await go_on.wait()
        return await delivery.ack()

    await harness.bus.publish(work("m"))
    async with harness.bus.consume(names.work_queue, prefetch=1) as deliveries:
        handling = asyncio.create_task(handler(await received(deliveries)))
        await harness.drop_links()
        again = await received(deliveries)
        go_on.set()
        assert await handling is False
        assert (again.message_id, again.delivery_count) == ("m", 1)
        assert await again.ack()
        await harness.bus.publish(work("next"))
        assert (await received(deliveries)).message_id == "next"


async def test_what_was_not_handed_out_when_the_link_broke_is_handed_out_once(
    harness: BusHarness, names: Names, work: Work
) -> None:
    for message_id in ("held", "waiting"):
        await harness.bus.publish(work(message_id))
    async with harness.bus.consume(names.work_queue, prefetch=2) as deliveries:
        await received(deliveries)
        await harness.drop_links()
        again = [await received(deliveries) for _ in range(2)]
    assert [(one.message_id, one.delivery_count) for one in again] == [("held", 1), ("waiting", 1)]


async def test_a_consumer_that_waits_survives_lost_links(
    harness: BusHarness, names: Names, work: Work
) -> None:
    async with harness.bus.consume(names.work_queue, prefetch=1) as deliveries:
        for number in range(3):
            waiting = asyncio.create_task(received(deliveries))
            await asyncio.sleep(0)
            await harness.drop_links()
            await harness.bus.publish(work(f"m{number}"))
            delivery = await waiting
            while delivery.message_id != f"m{number}":  # its answer was lost with the link
                assert delivery.delivery_count
                await delivery.ack()
                delivery = await received(deliveries)
            await delivery.ack()


async def test_a_publish_during_an_outage_completes_when_it_ends(
    harness: BusHarness, names: Names, work: Work
) -> None:
    await harness.bus.publish(work("before"))
    async with harness.outage():
        publishing = asyncio.create_task(harness.bus.publish(work("during"), timeout=SOON))
        await wait_until(lambda: unreachable(harness.bus))
        assert not publishing.done()
    await publishing
    async with harness.bus.consume(names.work_queue, prefetch=2) as deliveries:
        assert [(await received(deliveries)).message_id for _ in range(2)] == ["before", "during"]


async def test_a_publish_that_outlasts_its_timeout_says_so(harness: BusHarness, work: Work) -> None:
    async with harness.outage():
        with pytest.raises(BusUnavailable):
            await harness.bus.publish(work("m"), timeout=0.2)
    await harness.bus.publish(work("m"), timeout=SOON)


async def test_publishes_in_flight_when_the_link_breaks_are_all_confirmed(
    harness: BusHarness, names: Names, work: Work
) -> None:
    sent = {f"m{number}" for number in range(300)}
    publishing = asyncio.gather(
        *(harness.bus.publish(work(message_id), timeout=SOON) for message_id in sent)
    )
    arrived: set[str] = set()
    drop_after = [20, 120]
    async with harness.bus.consume(names.work_queue, prefetch=50) as deliveries:
        while arrived != sent:
            delivery = await received(deliveries)
            await delivery.ack()
            arrived.add(delivery.message_id)
            # As many drops as a message may come back before it counts as poison.
            if drop_after and len(arrived) == drop_after[0]:
                drop_after.pop(0)
                await harness.drop_links()
    assert not drop_after
    await publishing


async def test_a_cancelled_publish_ends_as_cancelled(harness: BusHarness, work: Work) -> None:
    async with harness.outage():
        publishing = asyncio.create_task(harness.bus.publish(work("m"), timeout=SOON))
        await asyncio.sleep(0.05)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing


async def test_a_refused_message_is_published_once_there_is_room(
    bus: Bus, names: Names, work: Work
) -> None:
    patient, publishing = await held_back(bus, lambda number: work(number, key="narrow"))
    await bus.publish(work("elsewhere"), timeout=SOON)
    async with bus.consume(names.narrow_queue, prefetch=10) as deliveries:
        arrived = ""
        while arrived != patient:
            delivery = await received(deliveries)
            arrived = delivery.message_id
            await delivery.ack()
        await publishing


async def test_a_message_that_no_queue_wants_is_unroutable(
    bus: Bus, names: Names, work: Work
) -> None:
    with pytest.raises(Unroutable):
        await bus.publish(work("m", key="nobody"))
    with pytest.raises(Unroutable):
        await bus.publish(
            OutgoingMessage(exchange="unheard-of", routing_key="job", body=b"", message_id="m")
        )
    await bus.publish(work("m"))


@pytest.mark.parametrize("key", ["job", "job.a", "job.a.b"])
async def test_a_topic_pattern_matches_any_number_of_words(
    bus: Bus, names: Names, work: Work, key: str
) -> None:
    await bus.publish(work("m", key=key))
    async with bus.consume(names.work_queue, prefetch=1) as deliveries:
        assert (await received(deliveries)).routing_key == key


async def test_headers_travel(bus: Bus, names: Names, work: Work) -> None:
    headers = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=1,b=ü",
        "empty": "",
    }
    await bus.publish(work("m", headers=headers))
    async with bus.consume(names.work_queue, prefetch=1) as deliveries:
        assert (await received(deliveries)).headers == headers


def test_a_header_of_the_broker_cannot_be_sent(work: Work) -> None:
    with pytest.raises(ValueError, match="x-death"):
        work("m", headers={"x-death": "old age"})


@pytest.mark.parametrize("body", [b"", b"\x00" * 7, bytes(range(256)) * 4096])
async def test_a_body_of_any_size_arrives_as_it_was(
    bus: Bus, names: Names, work: Work, body: bytes
) -> None:
    await bus.publish(work("m", body=body))
    async with bus.consume(names.work_queue, prefetch=1) as deliveries:
        assert (await received(deliveries)).body == body


async def test_a_consumer_that_stops_hands_back_what_it_has_not_looked_at(
    bus: Bus, names: Names, work: Work
) -> None:
    for message_id in ("held", "waiting", "queued"):
        await bus.publish(work(message_id))
    async with bus.consume(names.work_queue, prefetch=2) as draining:
        held = await received(draining)
        await draining.stop()
        with pytest.raises(StopAsyncIteration):
            await received(draining)
        async with bus.consume(names.work_queue, prefetch=2) as other:
            assert {(await received(other)).message_id for _ in range(2)} == {"waiting", "queued"}
        assert await held.ack()
    async with bus.consume(names.work_queue, prefetch=3) as deliveries:
        rest = {(await received(deliveries)).message_id for _ in range(2)}
    assert rest == {"waiting", "queued"}


async def test_a_consumer_that_stopped_receives_no_more_over_a_new_link(
    harness: BusHarness, names: Names, work: Work
) -> None:
    async with harness.bus.consume(names.work_queue, prefetch=1) as draining:
        await harness.bus.publish(work("first"))
        await received(draining)
        await draining.stop()
        await harness.drop_links()
        await wait_until(lambda: reachable(harness.bus))
        await harness.bus.publish(work("second"))
        async with harness.bus.consume(names.work_queue, prefetch=2) as deliveries:
            again = [await received(deliveries) for _ in range(2)]
    assert [(one.message_id, one.delivery_count) for one in again] == [("first", 1), ("second", 0)]


async def test_stopping_ends_the_loop_that_consumes(bus: Bus, names: Names, work: Work) -> None:
    seen = []

    async def loop(deliveries: Deliveries) -> None:
        async for delivery in deliveries:
            seen.append(delivery.message_id)
            await delivery.ack()

    await bus.publish(work("m"))
    async with bus.consume(names.work_queue, prefetch=1) as deliveries, asyncio.timeout(SOON):
        looping = asyncio.create_task(loop(deliveries))
        await wait_until(lambda: seen == ["m"])
        await deliveries.stop()
        await deliveries.stop()
        await looping


async def test_publishes_and_deliveries_are_counted(bus: Bus, names: Names, work: Work) -> None:
    reader = InMemoryMetricReader()
    async with telemetry("tested", TelemetryOptions(), metric_readers=[reader]):
        await bus.publish(work("m"))
        with pytest.raises(Unroutable):
            await bus.publish(work("m", key="nobody"))
        async with bus.consume(names.work_queue, prefetch=1) as deliveries:
            await (await received(deliveries)).requeue()
            await received(deliveries)
        points = points_of(reader)
    publishes = {p.attributes.get(ERROR_TYPE): p for p in points[BUS_PUBLISH_DURATION.name]}
    assert {kind: p.count for kind, p in publishes.items()} == {None: 1, "Unroutable": 1}
    assert publishes[None].attributes[BUS_DESTINATION] == names.work
    (failures,) = points[BUS_FAILURES.name]
    assert (failures.value, failures.attributes[ERROR_TYPE]) == (1, "Unroutable")
    delivered = points[BUS_DELIVERED.name]
    assert {p.attributes[BUS_REDELIVERED]: p.value for p in delivered} == {False: 1, True: 1}


async def test_a_message_carries_the_span_that_published_it(
    bus: Bus, names: Names, work: Work
) -> None:
    async with recording() as recorded:
        with span("outermost"):
            await bus.publish(work("m", headers={"kept": "yes"}))
        async with bus.consume(names.work_queue, prefetch=1) as deliveries:
            delivery = await received(deliveries)
    published = recorded.spans()[f"PRODUCER publish {names.work}"]
    assert published.parent is not None
    assert published.attributes is not None
    assert published.attributes[BUS_MESSAGE_ID] == "m"
    (link,) = links_to(delivery.headers)
    assert link.context.span_id == span_id(published)
    assert delivery.headers["kept"] == "yes"


async def test_a_publish_that_fails_is_a_failed_span(bus: Bus, names: Names, work: Work) -> None:
    async with recording() as recorded:
        with pytest.raises(Unroutable):
            await bus.publish(work("m", key="nobody"))
    published = recorded.spans()[f"PRODUCER publish {names.work}"]
    assert published.status.description == "Unroutable"


def points_of(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_the_check_tells_an_outage(harness: BusHarness) -> None:
    await wait_until(lambda: reachable(harness.bus))
    async with harness.outage():
        await wait_until(lambda: unreachable(harness.bus))
    await wait_until(lambda: reachable(harness.bus))


async def test_a_queue_outside_the_topology_cannot_be_consumed(bus: Bus) -> None:
    with pytest.raises(LookupError, match="unheard-of"):
        async with bus.consume("unheard-of", prefetch=1):
            pass
