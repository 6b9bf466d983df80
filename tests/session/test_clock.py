"""The clock of unfinished work: what is lost is found, what is late is ended."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionChanged, SessionDeleted, TurnAccepted
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.turn_service_pb2 import (
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
)
from services.runtime.memory import MemoryBus
from services.runtime.topology import maieutic_topology
from services.session.adapters import keys
from services.session.adapters.redis import RedisSessionStore
from services.session.frames import text_of
from services.session.ports import Reads
from services.session.sweeper import Contact
from services.session.transitions import cancel
from tests.backends.redis import RedisServer, valkey
from tests.proxy import Proxy, proxy
from tests.session.buses import LossyBus
from tests.session.stack import (
    SHORT_LEASE,
    SOON,
    FastSettings,
    Stack,
    User,
    failure,
    kinds,
    reason,
    retry_after,
    session_stack,
)
from tests.waiting import wait_until


@asynccontextmanager
async def lossy(url: str, **settings: Any) -> AsyncIterator[tuple[Stack, LossyBus]]:
    memory = MemoryBus(maieutic_topology())
    bus = LossyBus(memory)
    async with session_stack(url, memory=memory, bus=bus, **settings) as stack:
        yield stack, bus


async def begun(stack: Stack) -> tuple[User, str, str]:
    """Return a new user with a session and a turn in it."""
    user = stack.user()
    session_id = (await user.create()).session_id
    return user, session_id, (await user.begin(session_id)).turn_id


async def test_a_turn_whose_job_was_never_published_runs_all_the_same(any_store_url: str) -> None:
    async with lossy(any_store_url) as (stack, bus):
        bus.lose_exchange("turns", times=2)
        user = stack.user()
        turn = await user.begin((await user.create()).session_id)
        assert not turn.durable
        await stack.answer(turn.turn_id, "Because.")
        assert (await user.turn(turn.turn_id)).state == TURN_STATE_COMPLETED
        assert len(bus.lost) == 2


async def test_facts_that_were_not_published_come_later_in_their_order(store_url: str) -> None:
    async with lossy(store_url) as (stack, bus):
        bus.lose_exchange("results")
        user, session_id, turn_id = await begun(stack)
        await user.delete(session_id)
        await wait_until(lambda: len(bus.lost) > 3, SOON)
        bus.lose_exchange("none")
        await wait_until(lambda: session_id in stack.archive.deleted, SOON)
        kept = [(key, body) for key, body in stack.archiver.facts if key != "turn.finished"]
        order = list(dict.fromkeys(key for key, _ in kept))
        assert order == ["session.changed", "turn.accepted", "session.deleted"]
        assert SessionChanged.FromString(kept[0][1]).session.session_id == session_id
        assert TurnAccepted.FromString(kept[1][1]).job.turn_id == turn_id
        assert SessionDeleted.FromString(kept[-1][1]).session_id == session_id


async def test_an_outcome_that_was_not_published_is_published_again(store_url: str) -> None:
    async with lossy(store_url) as (stack, bus):
        user, _, turn_id = await begun(stack)
        bus.loses = lambda message: message.routing_key == "turn.finished" and len(bus.lost) < 3
        held = await stack.claim(turn_id)
        await held.complete("Because.", publish=False)
        await stack.archived(turn_id)
        assert len(bus.lost) == 3
        assert (await user.turn(turn_id)).outcome.text == "Because."


async def test_a_late_confirm_is_said_in_time_and_the_turn_runs_all_the_same(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    stream = aiter(user.stream(session_id))
    with stack.bus.holding_confirms():
        # It waits a quarter of a second, and not for the confirm, which has ten.
        async with asyncio.timeout(5):
            first = (await anext(stream)).frame
        assert not first.accepted.turn.durable
        turn_id = first.turn_id
        # Published again while the first try still waits: two jobs, one turn.
        await stack.jobs.next(turn_id, nth=2)
        held = await stack.claim(turn_id)
        other = await stack.worker().claim(await stack.jobs.next(turn_id, nth=2))
        assert other.HasField("held")
        await held.say("Because.")
        await held.complete("Because.", publish=False)
        rest = [response.frame async for response in stream]
    assert kinds(rest) == ["started", "delta", "outcome"]
    assert (await user.ended(turn_id)).attempt == 1


async def test_begin_is_refused_while_the_broker_confirms_nothing_for_long(
    store_url: str,
) -> None:
    async with session_stack(store_url, overload_after=0.5) as stack:
        user, _, turn_id = await begun(stack)
        await wait_until(lambda: bool(stack.jobs.of(turn_id)), SOON)
        with stack.bus.holding_confirms():
            other = stack.user()
            session_id = (await other.create()).session_id
            late = await other.begin(session_id, request_id="late")
            assert not late.durable

            async def overloaded() -> bool:
                error = await failure_or_none(begun(stack))
                if error is None:
                    return False
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                return reason(error) == "OVERLOADED" and retry_after(error) > 0

            await wait_until(overloaded, SOON)
            again = await other.begin(session_id, request_id="late")
            assert again.turn_id == late.turn_id, "what was accepted is found in any case"

        async def accepted_again() -> bool:
            return await failure_or_none(begun(stack)) is None

        async def durable() -> bool:
            return (await user.turn(turn_id)).durable

        await wait_until(accepted_again, SOON)
        await wait_until(durable, SOON)


async def failure_or_none(call: Any) -> grpc.aio.AioRpcError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def test_a_dead_workers_turn_goes_to_the_suspects_and_the_second_attempt_wins(
    any_store_url: str,
) -> None:
    async with session_stack(any_store_url, lease=SHORT_LEASE) as stack:
        user, _, turn_id = await begun(stack)
        first = await stack.claim(turn_id)
        await first.say("from the first")
        watching = asyncio.create_task(user.frames(turn_id))
        second = await stack.claim(turn_id, queue="suspect")
        assert second.claim.attempt == 2
        assert list((await first.record(["zombie"])).fenced_turn_ids) == [turn_id] * 2
        assert (await first.complete("from the first")).status == work.WRITE_STATUS_FENCED
        await second.say("from the second")
        await second.complete("from the second")
        frames = await watching
        assert text_of(frames) == "fromthesecond"
        assert kinds(frames).count("outcome") == 1
        await stack.archived(turn_id)
        assert stack.archive.finished[turn_id].outcome.attempts == 2


async def test_a_worker_that_beats_keeps_its_turn(store_url: str) -> None:
    async with session_stack(store_url, lease=1.2) as stack:
        user, _, turn_id = await begun(stack)
        held = await stack.claim(turn_id)
        until = time.monotonic() + 1.5  # more than a lease
        while time.monotonic() < until:
            assert not (await held.record()).fenced_turn_ids
            await asyncio.sleep(0.05)
        assert not stack.jobs.of(turn_id, "suspect")
        await held.complete("Because.")
        assert (await user.turn(turn_id)).attempt == 1


async def test_workers_that_die_every_time_spend_the_attempts(store_url: str) -> None:
    async with session_stack(store_url, lease=0.2) as stack:
        user, session_id, turn_id = await begun(stack)
        for attempt in (1, 2, 3):
            await stack.claim(turn_id, nth=attempt)
        turn = await user.ended(turn_id)
        assert (turn.state, turn.outcome.reason) == (TURN_STATE_FAILED, "ATTEMPTS_SPENT")
        await stack.archived(turn_id)
        await user.begin(session_id)


async def test_a_turn_over_its_budget_fails_with_what_was_said(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id, budget=1)).turn_id
    held = await stack.claim(turn_id)
    await held.say("half an")
    lost: list[str] = []

    async def stopped() -> bool:
        lost.extend((await held.record()).fenced_turn_ids)
        return bool(lost)

    await wait_until(stopped, SOON)
    turn = await user.ended(turn_id)
    assert (turn.state, turn.outcome.reason) == (TURN_STATE_FAILED, "TIME_BUDGET_SPENT")
    assert turn.outcome.text == "halfan"
    assert kinds(await user.frames(turn_id))[-2:] == ["notice", "outcome"]


async def test_a_stop_whose_second_step_was_never_taken_is_finished(any_store_url: str) -> None:
    timing = FastSettings().timing()
    async with (
        session_stack(any_store_url) as stack,
        RedisSessionStore.connect(any_store_url, timing=timing, timeout=5.0) as dying,
    ):
        user, session_id, turn_id = await begun(stack)
        held = await stack.claim(turn_id)
        await held.say("half an")
        # What a replica commits before it dies, without its second step.
        await dying.transact(
            session_id, lambda draft: cancel(draft, turn_id, "r", timing), Reads(turns=[turn_id])
        )
        turn = await user.ended(turn_id)
        assert (turn.state, turn.outcome.text) == (TURN_STATE_CANCELLED, "halfan")
        await stack.archived(turn_id)


@asynccontextmanager
async def broken_link(server: RedisServer, **settings: Any) -> AsyncIterator[tuple[Stack, Proxy]]:
    """Run the service on a link that can break; the test's own Redis client is behind it, too."""
    async with proxy(server.port) as link:
        url = f"redis://127.0.0.1:{link.port}/0"
        async with session_stack(url, **settings) as stack:
            yield stack, link


async def test_leases_are_not_judged_right_after_an_outage(valkey_server: RedisServer) -> None:
    async with broken_link(valkey_server, lease=1.0) as (stack, link):
        user, _, turn_id = await begun(stack)
        held = await stack.claim(turn_id)
        async with link.outage():
            # Longer than the lease: the worker cannot renew it.
            await asyncio.sleep(1.5)

        async def renewed() -> bool:
            try:
                return not (await held.record()).fenced_turn_ids
            except grpc.aio.AioRpcError:
                return False

        await wait_until(renewed, SOON)
        assert not stack.jobs.of(turn_id, "suspect")
        await held.complete("Because.")
        assert (await user.ended(turn_id)).attempt == 1


async def test_a_stream_that_breaks_with_the_store_goes_on_where_it_was(
    valkey_server: RedisServer,
) -> None:
    async with broken_link(valkey_server) as (stack, link):
        user, session_id, turn_id = await begun(stack)
        held = await stack.claim(turn_id)
        await held.say("one two")
        stream = aiter(user.watch(turn_id))
        seen = [(await anext(stream)).frame for _ in range(3)]
        async with link.outage():
            broken = await failure(stream)
            assert broken.code() == grpc.StatusCode.UNAVAILABLE
            refused = await failure(user.get(session_id))
            assert refused.code() == grpc.StatusCode.UNAVAILABLE

        async def reachable() -> bool:
            return await failure_or_none(user.turn(turn_id)) is None

        await wait_until(reachable, SOON)
        await stack.worker().claim(await stack.jobs.next(turn_id), held.claim_id)
        await held.say("three")
        await held.complete("one two three")
        rest = await user.frames(turn_id, seen[-1].cursor)
        assert text_of([*seen, *rest]) == "onetwothree"


async def test_a_record_of_another_type_is_put_aside_and_stops_no_clock(
    short_leases: Stack,
) -> None:
    stack = short_leases
    user, session_id, turn_id = await begun(stack)
    other, _, other_id = await begun(stack)
    await wait_until(lambda: turn_id in stack.archive.accepted, SOON)
    # As a bug or an operator may leave it.
    record = keys.record_key(session_id)
    in_one_step = stack.redis.pipeline(transaction=True)
    in_one_step.delete(record)
    in_one_step.hset(record, "a", "b")
    await in_one_step.execute()
    await stack.claim(other_id)
    second = await stack.claim(other_id, queue="suspect")
    await second.complete("Because.")
    assert (await other.ended(other_id)).state == TURN_STATE_COMPLETED

    async def came_back() -> bool:
        return await failure_or_none(user.get(session_id)) is None

    await wait_until(came_back, SOON)
    aside = [key async for key in stack.redis.scan_iter(match="*:q:*")]
    assert len(aside) == 1


async def test_the_clock_goes_on_while_the_broker_is_away(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id, budget=1)).turn_id
    await stack.claim(turn_id)
    with stack.bus.outage():
        await stack.user().create()
        # Its worker says no more: only the clock can end it.
        assert (await user.ended(turn_id)).outcome.reason == "TIME_BUDGET_SPENT"
    await stack.archived(turn_id)


async def test_a_killed_replicas_turn_is_run_by_another() -> None:
    """Between its commit and its publication a replica dies; what it left is all in the store."""
    async with valkey() as server:
        memory = MemoryBus(maieutic_topology())
        bus = LossyBus(memory)
        async with session_stack(server.url, bus=bus, sweep_interval=3600) as dying:
            bus.lose_exchange("turns")
            user, _, turn_id = await begun(dying)
        async with session_stack(server.url, flush=False) as stack:
            heir = stack.user(tenant=user.tenant, name=user.name)
            await stack.answer(turn_id, "Because.")
            assert (await heir.turn(turn_id)).state == TURN_STATE_COMPLETED


def test_contact_lasts_from_the_last_break_and_silence_is_a_break() -> None:
    now = 100.0
    contact = Contact(10.0, clock=lambda: now)
    for _ in range(6):
        now += 5
        contact.seen()
    assert contact.seconds == 30
    now += 11
    contact.seen()
    assert contact.seconds == 0
    now += 5
    contact.seen()
    contact.lost()
    now += 1
    contact.seen()
    assert contact.seconds == 1


async def test_jobs_carry_the_whole_request(stack: Stack) -> None:
    user, session_id, turn_id = await begun(stack)
    job: RunTurn = await stack.jobs.next(turn_id)
    assert (job.tenant, job.user_id) == (user.tenant, user.name)
    assert (job.message.text, job.message.session_id) == ("Why?", session_id)
    assert job.session.session_id == session_id
    assert job.max_attempts == 3
    assert job.time_budget.seconds == 600
