"""All keys of a session live and expire together, and a deleted one leaves nothing behind."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import pytest

from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    BUSY_POLICY_INTERRUPT,
    BUSY_POLICY_REJECT,
    BUSY_POLICY_ROLLBACK,
    BusyPolicy,
)
from services.session.adapters import keys
from services.session.adapters.writes import PARTS_OUTLIVE_MS
from tests.session.stack import SOON, Stack, User, session_stack
from tests.session.watchers import watching
from tests.waiting import wait_until

FAMILY = 24
"""Characters of an id that a session shares with its turns and branches."""
SLACK_MS = 5_000
NEAR_ITS_END_MS = 90_000
FOR_EVER = -1

Operation: TypeAlias = Callable[[Stack, User, str], Awaitable[object]]


async def lives(stack: Stack, session_id: str) -> dict[str, int]:
    """Return all keys of the session, its turns and its branches, and how long each lives, in ms.

    The names are without the shard, and turns without their ids.
    """
    found = {}
    async for raw in stack.redis.scan_iter(match=f"*{session_id[:FAMILY]}*", count=1000):
        name = raw.decode().split("}:")[1]
        found[name] = await stack.redis.pttl(raw)
    return found


def records_of(found: Mapping[str, int]) -> list[str]:
    return [name.removesuffix(":rec") for name in found if name.endswith(":rec")]


def check(found: Mapping[str, int]) -> None:
    """Parts live with their record and outlive it by a minute; all else has an end of its own."""
    parts = {":msg", ":notes", ":ev"}
    for record in records_of(found):
        life = found[f"{record}:rec"]
        assert life > 0, found
        for part in parts:
            if (name := record + part) in found:
                assert abs(found[name] - life - PARTS_OUTLIVE_MS) < SLACK_MS, found
    assert all(life > 0 for life in found.values()), found


async def settled(stack: Stack, session_id: str) -> dict[str, int]:
    """Wait until all of the session is archived and may expire."""

    async def every_record_ends() -> bool:
        found = await lives(stack, session_id)
        return all(found[f"{record}:rec"] > 0 for record in records_of(found))

    await wait_until(every_record_ends, SOON)
    return await lives(stack, session_id)


async def answered(
    stack: Stack, user: User, session_id: str, policy: BusyPolicy.ValueType = BUSY_POLICY_REJECT
) -> str:
    turn = await user.begin(session_id, policy=policy)
    await stack.answer(turn.turn_id, "Because.")
    await stack.archived(turn.turn_id)
    return turn.turn_id


async def failed(stack: Stack, user: User, session_id: str) -> None:
    held = await stack.claim((await user.begin(session_id)).turn_id)
    finished = (await held.fail(retryable=False)).finished
    await stack.archiver.publish(stack.bus, finished)


async def cancelled(stack: Stack, user: User, session_id: str) -> None:
    held = await stack.claim((await user.begin(session_id)).turn_id)
    await held.say("half an")
    await user.cancel(held.turn_id)


def followed(policy: BusyPolicy.ValueType) -> Operation:
    """Return what begins a turn while another one says something, and ends both."""

    async def operation(stack: Stack, user: User, session_id: str) -> None:
        held = await stack.claim((await user.begin(session_id)).turn_id)
        await held.say("half an")
        follower = await user.begin(session_id, policy=policy)
        if policy == BUSY_POLICY_ENQUEUE:
            await held.complete("half an answer")
        await stack.answer(follower.turn_id, "Because.")

    return operation


async def note_deleted(_: Stack, user: User, session_id: str) -> None:
    notes, _token = await user.notes(session_id)
    await user.delete_note(session_id, notes[0].note_id)


async def bookmarked(_: Stack, user: User, session_id: str) -> None:
    (message, *_rest), _token = await user.messages(session_id)
    await user.add_bookmark(session_id, message.message_id)


async def branched(_: Stack, user: User, session_id: str) -> None:
    (message, *_rest), _token = await user.messages(session_id)
    branch = await user.branch(session_id, message.message_id)
    await user.update(branch.session_id, title="a branch that is live")


async def watched(_: Stack, user: User, session_id: str) -> None:
    async with watching(user, session_id) as watcher:
        await watcher.next()


OPERATIONS: Mapping[str, Operation] = {
    "get": lambda _, user, session_id: user.get(session_id),
    "list messages": lambda _, user, session_id: user.all_messages(session_id),
    "update": lambda _, user, session_id: user.update(session_id, title="t"),
    "touch": lambda _, user, session_id: user.touch(session_id),
    "end": lambda _, user, session_id: user.end(session_id),
    "add a note": lambda _, user, session_id: user.add_note(session_id, "n"),
    "delete a note": note_deleted,
    "add a bookmark": bookmarked,
    "branch": branched,
    "watch": watched,
    "complete": answered,
    "fail": failed,
    "cancel": cancelled,
    "enqueue": followed(BUSY_POLICY_ENQUEUE),
    "interrupt": followed(BUSY_POLICY_INTERRUPT),
    "roll back": followed(BUSY_POLICY_ROLLBACK),
}


async def near_its_end(stack: Stack, session_id: str) -> None:
    """Let the session be as one that nobody has used for long."""
    for name, life in (await settled(stack, session_id)).items():
        if name.startswith("s:") and ":op:" not in name:
            left = NEAR_ITS_END_MS + (0 if name.endswith(":rec") else PARTS_OUTLIVE_MS)
            assert left < life
            shard = keys.record_key(session_id).split("}")[0]
            await stack.redis.pexpire(f"{shard}}}:{name}", left)


async def test_whatever_touched_a_session_last_its_keys_live_on_together(stack: Stack) -> None:
    user = stack.user()
    for name, operation in OPERATIONS.items():
        session_id = (await user.create(title=name)).session_id
        await watched(stack, user, session_id)
        await answered(stack, user, session_id)
        await user.add_note(session_id, "kept")
        await near_its_end(stack, session_id)
        await operation(stack, user, session_id)
        found = await settled(stack, session_id)
        check(found)
        assert found[f"s:{session_id}:rec"] > 2 * NEAR_ITS_END_MS, name
        assert f"s:{session_id}:msg" in found
        assert f"s:{session_id}:notes" in found
        assert f"s:{session_id}:ev" in found


async def test_while_a_turn_runs_none_of_its_sessions_keys_ends(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await watched(stack, user, session_id)
    await answered(stack, user, session_id)
    await user.add_note(session_id, "kept")
    await near_its_end(stack, session_id)
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    await held.say("half an")
    await user.get(session_id)
    found = await lives(stack, session_id)
    live = [f"s:{session_id}:{part}" for part in ("rec", "msg", "notes", "ev")]
    live += [f"t:{turn.turn_id}", f"t:{turn.turn_id}:ev"]
    assert {name: found[name] for name in live} == dict.fromkeys(live, FOR_EVER)


async def test_of_a_session_that_expired_nothing_is_left_for_ever(store_url: str) -> None:
    async with session_stack(store_url, idle=0.4) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        await watched(stack, user, session_id)
        await user.add_note(session_id, "kept")
        for operation in (answered, failed, cancelled, followed(BUSY_POLICY_INTERRUPT)):
            await operation(stack, user, session_id)
        turns = {turn for turn in stack.archive.accepted if turn.startswith(session_id[:FAMILY])}

        async def expired() -> bool:
            return f"s:{session_id}:rec" not in await lives(stack, session_id)

        await wait_until(expired, SOON)
        found = await lives(stack, session_id)
        check(found)
        assert {f"t:{turn}" for turn in turns} <= found.keys()
        for turn in turns:
            assert await stack.due(turn) is None


@pytest.mark.parametrize("late", ["worker", "archive", "caller"])
async def test_a_deleted_session_leaves_a_tombstone_and_markers_whoever_comes_late(
    stack: Stack, late: str
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await watched(stack, user, session_id)
    old = [await answered(stack, user, session_id) for _ in range(11)]
    await user.add_note(session_id, "kept")
    running = await user.begin(session_id)
    waiting = await user.begin(session_id, policy=BUSY_POLICY_ENQUEUE)
    held = await stack.claim(running.turn_id)
    await held.say("half an")
    with stack.archiver.paused():
        if late == "archive":
            await held.complete("half an answer")
        await user.delete(session_id)
        if late == "worker":
            await held.record(["answer"])
            await held.complete("half an answer")
            await held.release()
            await stack.worker().claim(await stack.jobs.next(running.turn_id))
        if late == "caller":
            for call in (
                user.cancel(running.turn_id),
                user.begin(session_id),
                user.touch(session_id),
            ):
                await no_answer(call)
    await wait_until(lambda: session_id in stack.archive.deleted, SOON)
    found = await lives(stack, session_id)
    assert all(life > 0 for life in found.values()), found
    markers = {name for name in found if name.startswith(f"s:{session_id}:op:")}
    # The oldest turns had left the window: what is left of them goes by itself within a day.
    trimmed = {f"t:{turn}{part}" for turn in old[:2] for part in ("", ":ev")}
    assert found.keys() - markers - trimmed == {f"s:{session_id}:rec"}
    for turn in (*old, running.turn_id, waiting.turn_id):
        assert await stack.due(turn) is None


async def no_answer(call: Awaitable[object]) -> None:
    with pytest.raises(Exception, match="NOT_FOUND"):
        await call
