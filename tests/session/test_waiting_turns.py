"""Turns begun while another one runs: over gRPC, on Valkey and on Redis."""

import asyncio
from collections.abc import Sequence

import grpc
from google.rpc.error_details_pb2 import QuotaFailure

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.session.v1.turn_work_service_pb2 import WRITE_STATUS_MISSING
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE as ENQUEUE,
    BUSY_POLICY_INTERRUPT as INTERRUPT,
    BUSY_POLICY_ROLLBACK as ROLLBACK,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_INTERRUPTED,
    TURN_STATE_QUEUED,
    TURN_STATE_ROLLED_BACK,
    TURN_STATE_WAITING,
    BusyPolicy,
    TurnOutcome,
)
from services.runtime.memory import MemoryBus
from services.runtime.topology import maieutic_topology
from services.session.adapters.redis import RedisSessionStore
from services.session.beginning import begin
from services.session.model import agent_message
from services.session.ports import Reads
from tests.backends.redis import RedisServer, valkey
from tests.proxy import proxy
from tests.session.buses import LossyBus
from tests.session.stack import (
    SOON,
    FastSettings,
    Held,
    Stack,
    User,
    detail,
    failure,
    kinds,
    reason,
    session_stack,
)
from tests.waiting import wait_until


async def running(stack: Stack) -> tuple[User, str, Held]:
    """Return a user with a session whose first turn a worker has half answered."""
    user = stack.user()
    session_id = (await user.create()).session_id
    held = await stack.claim((await user.begin(session_id, "a?")).turn_id)
    await held.say("half an")
    return user, session_id, held


async def enqueued(user: User, session_id: str, texts: Sequence[str]) -> list[str]:
    return [(await user.begin(session_id, text, policy=ENQUEUE)).turn_id for text in texts]


async def texts(user: User, session_id: str, size: int = 2) -> list[str]:
    messages = await user.all_messages(session_id, size)
    assert [message.position for message in messages] == list(range(1, len(messages) + 1))
    return [message.text for message in messages]


def asked(held: Held) -> list[str]:
    return [message.text for message in held.claim.window]


async def test_five_turns_in_line_run_in_order_and_each_sees_what_was_said_before(
    any_store_url: str,
) -> None:
    # Patient, so that no job is published again.
    async with session_stack(any_store_url, publish_grace=60.0, queue_check=60.0) as stack:
        await five_run_in_order(stack)


async def five_run_in_order(stack: Stack) -> None:
    user, session_id, held = await running(stack)
    line = await enqueued(user, session_id, ["b?", "c?", "d?", "e?"])
    told = ["a?"]
    waiting = [await user.turn(turn_id) for turn_id in line]
    assert {turn.state for turn in waiting} == {TURN_STATE_WAITING}
    assert [turn.waiting_position for turn in waiting] == [1, 2, 3, 4]
    assert not any(stack.jobs.of(turn_id) for turn_id in line)
    await held.complete("A!")
    told.append("A!")
    for turn_id, name in zip(line, "bcde", strict=True):
        next_one = await stack.claim(turn_id)
        told.append(f"{name}?")
        assert asked(next_one) == told
        await next_one.complete(f"{name.upper()}!")
        told.append(f"{name.upper()}!")
    assert await texts(user, session_id) == told
    for turn_id in line:
        assert len(stack.jobs.of(turn_id)) == 1
        assert kinds(await user.frames(turn_id)) == ["accepted", "started", "outcome"]
    await stack.archived(line[-1])
    assert await texts(user, session_id) == told


async def test_a_waiting_turn_is_durable_once_its_acceptance_is(any_stack: Stack) -> None:
    user, session_id, _ = await running(any_stack)
    with any_stack.archiver.paused():
        turn = await user.begin(session_id, "b?", policy=ENQUEUE)
        assert (turn.durable, turn.waiting_position) == (True, 1)
    with any_stack.bus.outage():
        turn = await user.begin(session_id, "c?", "third", policy=ENQUEUE)
        assert (turn.durable, turn.waiting_position) == (False, 2)
    await wait_until(lambda: turn.turn_id in any_stack.archive.accepted, SOON)
    again = await user.begin(session_id, "c?", "third", policy=ENQUEUE)
    assert (again.turn_id, again.durable, again.waiting_position) == (turn.turn_id, True, 2)


async def test_a_full_line_is_refused_by_the_name_of_its_limit(store_url: str) -> None:
    async with session_stack(store_url, waiting_turns=2) as stack:
        user, session_id, _ = await running(stack)
        await enqueued(user, session_id, ["b?", "c?"])
        error = await failure(user.begin(session_id, "d?", policy=ENQUEUE))
        assert (error.code(), reason(error)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "LIMIT_REACHED",
        )
        assert detail(error, QuotaFailure).violations[0].subject == "waiting_turns"
        assert "at most 2 waiting turns" in (error.details() or "")


async def test_a_cancelled_waiting_turn_ends_at_once_and_the_next_moves_up(
    any_stack: Stack,
) -> None:
    user, session_id, held = await running(any_stack)
    b, c = await enqueued(user, session_id, ["b?", "c?"])
    cancelled = await user.cancel(b)
    assert cancelled.state == TURN_STATE_CANCELLED
    assert (await user.turn(c)).waiting_position == 1
    assert kinds(await user.frames(b)) == ["accepted", "outcome"]
    await any_stack.archived(b)
    await held.complete("A!")
    await any_stack.answer(c, "C!")
    assert await texts(user, session_id) == ["a?", "A!", "c?", "C!"]
    assert not any_stack.jobs.of(b)


async def test_an_interrupted_worker_is_fenced_and_its_partial_answer_is_kept_and_marked(
    any_stack: Stack,
) -> None:
    user, session_id, held = await running(any_stack)
    turn = await user.begin(session_id, "b?", policy=INTERRUPT)
    assert (turn.state, turn.durable, turn.waiting_position) == (TURN_STATE_QUEUED, True, 0)
    assert (await held.record(["more"])).fenced_turn_ids
    stopped = await user.turn(held.turn_id)
    assert (stopped.state, stopped.outcome.text) == (TURN_STATE_INTERRUPTED, "halfan")
    frames = kinds(await user.frames(held.turn_id))
    assert frames == ["accepted", "started", "delta", "notice", "outcome"]
    next_one = await any_stack.claim(turn.turn_id)
    assert asked(next_one) == ["a?", "halfan", "b?"]
    assert [message.partial for message in next_one.claim.window] == [False, True, False]
    await next_one.complete("B!")
    await any_stack.archived(held.turn_id)
    assert await texts(user, session_id) == ["a?", "halfan", "b?", "B!"]


async def test_a_rolled_back_turn_leaves_nothing_in_window_and_history(any_stack: Stack) -> None:
    user, session_id, held = await running(any_stack)
    turn = await user.begin(session_id, "b?", policy=ROLLBACK)
    assert (await held.record(["more"])).fenced_turn_ids
    assert (await user.turn(held.turn_id)).state == TURN_STATE_ROLLED_BACK
    next_one = await any_stack.claim(turn.turn_id)
    assert asked(next_one) == ["b?"]
    await next_one.complete("B!")
    assert await texts(user, session_id) == ["b?", "B!"]
    await any_stack.archived(held.turn_id)
    await any_stack.archived(turn.turn_id)
    assert (await user.get(session_id)).message_count == 2
    await any_stack.forget(session_id)
    assert await texts(user, session_id) == ["b?", "B!"]


async def test_a_rolled_back_question_that_the_archive_still_shows_is_not_listed(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    told = []
    for number in range(11):  # more than the window holds, so that a list needs the archive
        turn = await user.begin(session_id, f"{number}?")
        await stack.answer(turn.turn_id, f"{number}!")
        await stack.archived(turn.turn_id)
        told += [f"{number}?", f"{number}!"]
    undone = await user.begin(session_id, "undone?")
    await wait_until(lambda: undone.turn_id in stack.archive.accepted, SOON)
    with stack.archiver.paused():
        await user.begin(session_id, "b?", policy=ROLLBACK)
        in_archive = [message.text for message in stack.archive.messages(session_id)]
        assert in_archive == [*told, "undone?"]
        for size in (2, 50):
            assert await texts(user, session_id, size) == [*told, "b?"]


async def test_of_callers_that_interrupt_at_the_same_time_the_last_one_starts(
    two_replicas: Stack,
) -> None:
    user, session_id, held = await running(two_replicas)
    other = user.at(two_replicas.replicas[1])

    async def interrupt(number: int) -> str:
        caller = (user, other)[number % 2]
        return (await caller.begin(session_id, f"{number}?", policy=INTERRUPT)).turn_id

    begun = await asyncio.gather(*map(interrupt, range(6)))

    async def states(of: Sequence[str]) -> list[int]:
        return [(await user.turn(turn_id)).state for turn_id in of]

    async def one_is_left() -> bool:
        return sorted(await states(begun)) == [TURN_STATE_QUEUED, *[TURN_STATE_INTERRUPTED] * 5]

    await wait_until(one_is_left, SOON)
    (left,) = [t for t, s in zip(begun, await states(begun), strict=True) if s == TURN_STATE_QUEUED]
    assert (await user.get(session_id)).active_turn_id == left
    await two_replicas.answer(left, "Done.")
    for turn_id in (held.turn_id, *begun):
        assert kinds(await user.frames(turn_id)).count("outcome") == 1
        await two_replicas.archived(turn_id)


async def test_an_interruption_whose_second_step_was_never_taken_is_finished(
    any_store_url: str,
) -> None:
    timing = FastSettings().timing()
    async with (
        session_stack(any_store_url) as stack,
        RedisSessionStore.connect(any_store_url, timing=timing, timeout=5.0) as dying,
    ):
        user, session_id, held = await running(stack)
        job = RunTurn.FromString((await stack.jobs.next(held.turn_id)).SerializeToString())
        job.turn_id = f"{held.turn_id[:24]}{'x' * 24}"
        job.message.turn_id, job.message.message_id = job.turn_id, f"{job.turn_id}.u"
        job.message.text, job.busy_policy = "b?", INTERRUPT
        # What a replica commits before it dies, without its second step and its publication.
        await dying.transact(
            session_id,
            lambda draft: begin(draft, job, timing),
            Reads(turns=[job.turn_id], running=True),
        )
        await stack.answer(job.turn_id, "B!")
        assert (await user.turn(held.turn_id)).state == TURN_STATE_INTERRUPTED
        assert await texts(user, session_id) == ["a?", "halfan", "b?", "B!"]


async def test_a_promoted_job_that_its_replica_could_not_publish_is_published_by_another() -> None:
    async with valkey() as server:
        memory = MemoryBus(maieutic_topology())
        bus = LossyBus(memory)
        async with session_stack(server.url, memory=memory, bus=bus, sweep_interval=3600) as dying:
            user, session_id, held = await running(dying)
            (b,) = await enqueued(user, session_id, ["b?"])
            bus.lose_exchange("turns")
            await held.complete("A!", publish=False)
            assert (await user.turn(b)).state == TURN_STATE_QUEUED
            assert not dying.jobs.of(b)
        async with session_stack(server.url, flush=False) as stack:
            heir = stack.user(tenant=user.tenant, name=user.name)
            await stack.answer(b, "B!")
            assert (await heir.turn(b)).state == TURN_STATE_COMPLETED


async def test_lost_replies_to_exec_promote_nobody_twice_and_forget_nobody(
    valkey_server: RedisServer,
) -> None:
    seen = lost = 0

    def every_third_exec(chunk: bytes) -> bool:
        nonlocal seen, lost
        seen += b"EXEC" in chunk
        swallow = b"EXEC" in chunk and seen % 3 == 0
        lost += swallow
        return swallow

    async with proxy(valkey_server.port) as link:
        url = f"redis://127.0.0.1:{link.port}/0"
        async with session_stack(url, redis_timeout=10.0, lease=5.0) as stack:
            user, session_id, held = await running(stack)
            link.swallow_replies(every_third_exec)
            line = await enqueued(user, session_id, ["b?", "c?", "d?"])
            await held.complete("A!")
            for turn_id in line:
                await (await stack.claim(turn_id)).complete("So.")
            link.swallow_replies(lambda _: False)
            assert lost > 2
            told = await texts(user, session_id)
            assert told == ["a?", "A!", "b?", "So.", "c?", "So.", "d?", "So."]
            for turn_id in line:
                assert kinds(await user.frames(turn_id)).count("outcome") == 1


async def test_turns_that_an_emptied_store_lost_are_cancelled_all_the_same(
    any_stack: Stack,
) -> None:
    user, session_id, held = await running(any_stack)
    b, c = await enqueued(user, session_id, ["b?", "c?"])
    await wait_until(lambda: {b, c} <= any_stack.archive.accepted.keys(), SOON)
    await any_stack.redis.flushdb()
    for turn_id in (b, held.turn_id):
        await user.cancel(turn_id)
        assert (await user.ended(turn_id)).state == TURN_STATE_CANCELLED
        await any_stack.archived(turn_id)
    await any_stack.answer(c, "C!")
    await any_stack.archived(c)
    assert (await texts(user, session_id))[-2:] == ["c?", "C!"]


async def test_an_emptied_store_gets_its_line_back_in_order(any_store_url: str) -> None:
    async with session_stack(any_store_url) as stack:
        user, session_id, held = await running(stack)
        b, c = await enqueued(user, session_id, ["b?", "c?"])
        policies: list[tuple[str, BusyPolicy.ValueType]] = [("d?", INTERRUPT), ("e?", ENQUEUE)]
        d, e = [(await user.begin(session_id, t, policy=p)).turn_id for t, p in policies]
        await stack.archived(held.turn_id)
        await wait_until(lambda: {b, c, d, e} <= stack.archive.accepted.keys(), SOON)
        await stack.redis.flushdb()
        # Whoever comes by brings all of them back.
        await user.get(session_id)
        assert (await user.get(session_id)).active_turn_id == d
        assert [(await user.turn(turn)).waiting_position for turn in (b, c, e)] == [1, 2, 3]
        for turn_id, name in ((d, "D"), (b, "B"), (c, "C"), (e, "E")):
            await stack.answer(turn_id, f"{name}!", nth=len(stack.jobs.of(turn_id)) or 1)
            await stack.archived(turn_id)
        told = await texts(user, session_id)
        assert told == ["a?", "halfan", "d?", "D!", "b?", "B!", "c?", "C!", "e?", "E!"]


async def answers(_: Stack, __: User, held: Held) -> None:
    await held.complete("half an answer")


async def fails(_: Stack, __: User, held: Held) -> None:
    await held.fail(retryable=False)


async def fails_every_time(stack: Stack, _: User, held: Held) -> None:
    await held.fail(retryable=True)
    second = await stack.claim(held.turn_id, nth=2)
    assert (await second.fail(retryable=True)).HasField("finished")


async def is_cancelled(_: Stack, user: User, held: Held) -> None:
    await user.cancel(held.turn_id)


async def dies_every_time(stack: Stack, _: User, held: Held) -> None:
    await stack.claim(held.turn_id, queue="suspect")


async def goes_on_beyond_its_budget(_: Stack, user: User, held: Held) -> None:
    async def ended() -> bool:
        await held.record()
        return (await user.turn(held.turn_id)).HasField("outcome")

    await wait_until(ended, SOON)


async def has_ended_in_the_archive(stack: Stack, _: User, held: Held) -> None:
    """As when the store lost an outcome that was archived: the archive's word stands."""
    job = await stack.jobs.next(held.turn_id)
    outcome = TurnOutcome(state=TURN_STATE_COMPLETED, text="said before", fence=1)
    row = TurnFinished(job=job, outcome=outcome)
    row.answer.CopyFrom(agent_message(row, position=2))
    await stack.archiver.publish(stack.bus, row)


ENDS = {
    "COMPLETED": (answers, "half an answer"),
    "MODEL_AWAY": (fails, ""),
    "MODEL_AWAY again": (fails_every_time, ""),
    "CANCELLED_BY_CALLER": (is_cancelled, "halfan"),
    "ATTEMPTS_SPENT": (dies_every_time, ""),
    "TIME_BUDGET_SPENT": (goes_on_beyond_its_budget, "halfan"),
    "COMPLETED before": (has_ended_in_the_archive, "said before"),
}
"""How a turn may end: the reason, what its worker or caller does, and what stays of the answer."""


async def test_however_a_turn_ends_the_next_in_line_runs_and_sees_what_is_left(
    store_url: str,
) -> None:
    # The clock looks at nobody who waits: only the end itself can start the next.
    for lease, reasons in ((0.3, {"ATTEMPTS_SPENT"}), (60.0, ENDS.keys() - {"ATTEMPTS_SPENT"})):
        async with session_stack(store_url, lease=lease, max_attempts=2, queue_check=60.0) as stack:
            await asyncio.gather(*(ends_and_the_next_runs(stack, reason) for reason in reasons))


async def ends_and_the_next_runs(stack: Stack, reason: str) -> None:
    end, left = ENDS[reason]
    user = stack.user()
    session_id = (await user.create()).session_id
    budget = 1 if end is goes_on_beyond_its_budget else 0
    held = await stack.claim((await user.begin(session_id, "a?", budget=budget)).turn_id)
    await held.say("half an")
    b, c = await enqueued(user, session_id, ["b?", "c?"])
    await end(stack, user, held)
    ended = await user.ended(held.turn_id)
    assert (ended.outcome.reason or "COMPLETED") == reason.split(maxsplit=1)[0]
    # Whoever still holds it ends nothing a second time, and starts nobody.
    assert (await held.complete("too late", publish=False)).finished.answer.text != "too late"
    following = await stack.claim(b)
    assert asked(following) == ["a?", *([left] if left else []), "b?"]
    assert (await user.turn(c)).waiting_position == 1
    await following.complete("B!")
    await stack.answer(c, "C!")
    for turn_id in (held.turn_id, b, c):
        assert kinds(await user.frames(turn_id)).count("outcome") == 1
    assert (await texts(user, session_id))[-4:] == ["b?", "B!", "c?", "C!"]


async def test_a_deleted_session_takes_its_line_along_and_tells_all_who_watch(
    any_stack: Stack,
) -> None:
    user, session_id, held = await running(any_stack)
    line = await enqueued(user, session_id, ["b?", "c?"])
    watching = [asyncio.create_task(failure(user.watch(t))) for t in (held.turn_id, *line)]
    await wait_until(lambda: any_stack.archive.accepted.keys() >= {held.turn_id, *line}, SOON)
    await user.delete(session_id)
    assert (await held.complete("A!")).status == WRITE_STATUS_MISSING
    for error in await asyncio.gather(*watching):
        assert error.code() == grpc.StatusCode.NOT_FOUND
    await wait_until(lambda: session_id in any_stack.archive.deleted, SOON)
    assert not any(any_stack.jobs.of(turn_id) for turn_id in line)
