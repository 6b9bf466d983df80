"""What needs no write of its own, because something else says it or will say it."""

from typing import Any

from maieutic.session.v1 import turn_work_service_pb2 as pb
from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from services.runtime.bus import OutgoingMessage
from services.runtime.memory import MemoryBus
from services.runtime.topology import maieutic_topology
from services.session.adapters import keys
from services.session.adapters.codec import decode
from services.session.ids import shard_of
from services.session.model import STUB
from tests.session.buses import LossyBus
from tests.session.stack import SOON, Stack, session_stack
from tests.waiting import wait_until


async def stored(stack: Stack, key: str) -> bytes:
    value = await stack.redis.get(key)
    assert isinstance(value, bytes)
    return value


async def turn_record(stack: Stack, turn_id: str) -> TurnRecord:
    return decode(TurnRecord, await stored(stack, keys.turn_key(turn_id)))


async def session_record(stack: Stack, session_id: str) -> SessionRecord:
    return decode(SessionRecord, await stored(stack, keys.record_key(session_id)))


async def noted(stack: Stack, turn_id: str) -> None:
    """Wait until it is noted that the broker has the turn's job."""

    async def is_noted() -> bool:
        return (await turn_record(stack, turn_id)).job_confirmed

    await wait_until(is_noted, SOON)


async def test_the_confirm_of_a_job_that_nobody_claims_is_noted(store_url: str) -> None:
    # A confirm is noted after a quarter of the grace, with all of it left for a busy machine.
    async with session_stack(store_url, publish_grace=2.0, queue_check=60.0) as stack:
        user = stack.user()
        turn = await user.begin((await user.create()).session_id)
        await noted(stack, turn.turn_id)
        assert len(stack.jobs.of(turn.turn_id)) == 1


async def test_a_turn_that_was_said_to_be_durable_stays_so_before_it_is_noted(stack: Stack) -> None:
    user = stack.user()
    turn = await user.begin((await user.create()).session_id)
    assert turn.durable
    for _ in range(20):
        assert (await user.turn(turn.turn_id)).durable


async def test_the_confirm_of_a_claimed_job_is_not_noted(stack: Stack) -> None:
    user = stack.user()
    session = await user.create()
    with stack.bus.holding_confirms():  # so that it comes after the claim
        claimed = await user.begin(session.session_id)
        held = await stack.claim(claimed.turn_id)
    other = await user.begin((await user.create()).session_id)
    await noted(stack, other.turn_id)  # after that of the first
    assert not (await turn_record(stack, claimed.turn_id)).job_confirmed
    await held.complete("Because.")


async def test_the_confirm_of_a_job_says_nothing_about_a_later_attempt(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    with stack.bus.holding_confirms():  # so that it comes after the attempt
        turn = await user.begin(session_id)
        held = await stack.claim(turn.turn_id)
        await held.fail(retryable=True, retry_after=60)
        due = await stack.due(turn.turn_id)
    other = await user.begin((await user.create()).session_id)
    await noted(stack, other.turn_id)
    assert not (await turn_record(stack, turn.turn_id)).job_confirmed
    assert await stack.due(turn.turn_id) == due


async def test_facts_that_were_confirmed_leave_their_stream_together(store_url: str) -> None:
    memory = MemoryBus(maieutic_topology())
    bus = LossyBus(memory)
    bus.lose_exchange("results")
    async with session_stack(store_url, memory=memory, bus=bus) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        for number in range(20):
            await user.update(session_id, title=str(number))
        await stack.redis.config_resetstat()
        bus.loses = lambda _: False

        async def told() -> bool:
            return not await stack.redis.xlen(keys.out_key(shard_of(session_id)))

        await wait_until(told, SOON)
        dropped: Any = await stack.redis.info("commandstats")
        assert dropped["cmdstat_xdel"]["calls"] == 1
        await wait_until(lambda: stack.archive.sessions[session_id].session.title == "19", SOON)


async def test_facts_before_one_that_was_lost_are_not_told_again(store_url: str) -> None:
    memory = MemoryBus(maieutic_topology())
    bus = LossyBus(memory)
    bus.lose_exchange("results")
    async with session_stack(store_url, memory=memory, bus=bus) as stack:
        user = stack.user()
        session_id = (await user.create(title="0")).session_id
        await user.add_note(session_id, "It was pure.")
        await user.update(session_id, title="1")  # which says nothing of the note
        seen: list[str] = []

        def loses_the_second(message: OutgoingMessage) -> bool:
            seen.append(message.message_id)
            return len(seen) == 2

        bus.loses = loses_the_second

        def archived() -> bool:
            kept = stack.archive.sessions.get(session_id)
            return kept is not None and kept.session.title == "1"

        await wait_until(archived, SOON)
        assert len(seen) == 3
        assert len(set(seen)) == 2


async def test_a_fresh_lease_is_not_renewed_and_an_older_one_is(store_url: str) -> None:
    async with session_stack(store_url, lease=1.5) as stack:
        user = stack.user()
        turn = await user.begin((await user.create()).session_id)
        held = await stack.claim(turn.turn_id)
        fresh = (await turn_record(stack, turn.turn_id)).lease_end_ms
        await held.record()
        assert (await turn_record(stack, turn.turn_id)).lease_end_ms == fresh

        async def renewed() -> bool:
            await held.record()
            return (await turn_record(stack, turn.turn_id)).lease_end_ms > fresh

        await wait_until(renewed, SOON)
        await held.complete("Because.")


async def test_a_revision_that_a_running_turn_will_move_is_noted_once_the_turn_has_ended(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    await wait_until(lambda: turn.turn_id in stack.archive.accepted, SOON)
    running = await session_record(stack, session_id)
    stub, request = stack.first.archive, pb.MarkArchivedRequest()
    request.sessions.add(session_id=session_id, revision=running.session.revision)
    await stub.MarkArchived(request)
    assert (await session_record(stack, session_id)).archived_revision < running.session.revision

    await held.complete("Because.")

    async def all_is_archived() -> bool:
        record = await session_record(stack, session_id)
        return record.archived_revision >= record.session.revision > running.session.revision

    await wait_until(all_is_archived, SOON)


async def test_turns_of_one_session_are_marked_in_one_step(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    ids = []
    with stack.archiver.paused():
        for number in range(3):
            turn = await user.begin(session_id, request_id=f"r{number}")
            await stack.answer(turn.turn_id, "Because.")
            ids.append(turn.turn_id)
        before = await session_record(stack, session_id)
        rows = [(await turn_record(stack, turn_id)).finished for turn_id in ids]
        await stack.first.archive.MarkArchived(pb.MarkArchivedRequest(turns=rows))
        after = await session_record(stack, session_id)
    assert list(before.unarchived_turn_ids) == ids
    assert not after.unarchived_turn_ids
    assert after.archived_revision == rows[-1].session.revision
    assert [(await turn_record(stack, turn_id)).phase for turn_id in ids] == [STUB] * 3


async def test_the_confirm_of_a_revision_that_has_passed_is_not_noted(stack: Stack) -> None:
    user = stack.user()
    with stack.archiver.paused():
        session_id = (await user.create()).session_id
        first = (await user.update(session_id, title="1")).revision
        second = (await user.update(session_id, title="2")).revision
        third = (await user.update(session_id, title="3")).revision

        async def confirmed(revision: int) -> int:
            request = pb.MarkArchivedRequest()
            request.sessions.add(session_id=session_id, revision=revision)
            await stack.first.archive.MarkArchived(request)
            return (await session_record(stack, session_id)).archived_revision

        # The first confirm says that the archive knows the session at all.
        assert await confirmed(first) == first
        assert await confirmed(second) == first
        assert await confirmed(third) == third
