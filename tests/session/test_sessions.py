"""Sessions over gRPC: create, get, list, delete, on a real store."""

import asyncio
from typing import Any

import grpc
import pytest

from services.runtime.settings import BadSettings
from tests.backends.redis import RedisServer
from tests.session.stack import (
    SOON,
    Stack,
    bad_field,
    failure,
    reason,
    retry_after,
    session_stack,
)
from tests.waiting import wait_until

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def test_the_same_request_id_creates_one_session(any_stack: Stack) -> None:
    user = any_stack.user()
    created = await asyncio.gather(*(user.create("r1", title="Stars") for _ in range(5)))
    assert len({session.session_id for session in created}) == 1
    assert (await user.get(created[0].session_id)).revision == created[0].revision
    assert await user.all_sessions(10) == [created[0].session_id]


async def test_the_same_request_id_with_another_request_is_refused(stack: Stack) -> None:
    user = stack.user()
    await user.create("r1", title="Stars")
    error = await failure(user.create("r1", title="Moons"))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    assert reason(error) == "REQUEST_ID_TAKEN"


async def test_two_users_with_the_same_request_id_have_two_sessions(stack: Stack) -> None:
    one, two = stack.user(tenant="t"), stack.user(tenant="t")
    assert (await one.create("r")).session_id != (await two.create("r")).session_id


async def test_what_was_asked_for_is_kept(stack: Stack) -> None:
    user = stack.user()
    made = await user.create(title="Stars", metadata={"a": "b"}, document_ids=["d" * 20])
    found = await user.get(made.session_id)
    assert (found.title, dict(found.metadata)) == ("Stars", {"a": "b"})
    assert list(found.document_ids) == ["d" * 20]
    assert (found.user_id, found.message_count, found.active_turn_id) == (user.name, 0, "")


async def test_sessions_are_listed_newest_first_over_pages(stack: Stack) -> None:
    user = stack.user()
    made = [(await user.create(f"r{n}")).session_id for n in range(7)]
    listed = await user.all_sessions(3)
    assert sorted(listed) == sorted(made)
    assert len(listed) == 7
    times = [(await user.get(session_id)).create_time.ToMilliseconds() for session_id in listed]
    assert times == sorted(times, reverse=True)


async def test_live_and_archived_sessions_are_one_list(stack: Stack) -> None:
    user = stack.user()
    made = [(await user.create(f"r{n}")).session_id for n in range(6)]
    await wait_until(lambda: all(s in stack.archive.sessions for s in made), SOON)
    for session_id in made[::2]:
        await stack.forget(session_id)
    assert sorted(await user.all_sessions(2)) == sorted(made)


async def test_large_sessions_come_in_pages_that_every_caller_takes(
    valkey_server: RedisServer,
) -> None:
    large = {f"k{n}": "\N{GRINNING FACE}" * 1024 for n in range(32)}
    async with session_stack(valkey_server.url, metadata_bytes=200_000) as stack:
        user = stack.user()
        stack.archive.most = 20
        made = [(await user.create(metadata=large)).session_id for _ in range(40)]
        assert sorted(await user.all_sessions(200)) == sorted(made)
        await wait_until(lambda: all(s in stack.archive.sessions for s in made), SOON)
        for session_id in made:
            await stack.forget(session_id)
        assert sorted(await user.all_sessions(200)) == sorted(made)


async def test_long_messages_come_in_pages_that_every_caller_takes(stack: Stack) -> None:
    """Half of them from the window, half from an archive whose answers are bounded, too."""
    user, longest = stack.user(), "\N{GRINNING FACE}" * 32_768
    session_id = (await user.create()).session_id
    for _ in range(20):
        turn = await user.begin(session_id, longest)
        held = await stack.claim(turn.turn_id)
        await held.complete(longest)
        await stack.archived(turn.turn_id)
    stack.archive.most = 7
    first, token = await user.messages(session_id, 200)
    assert 1 < len(first) < 20
    assert token
    for size in (200, 3):
        found = await user.all_messages(session_id, size)
        assert [message.position for message in found] == list(range(1, 41))
    await stack.forget(session_id)
    found = await user.all_messages(session_id, 200)
    assert [message.position for message in found] == list(range(1, 41))


async def test_a_page_token_that_is_not_one_is_refused(stack: Stack) -> None:
    user = stack.user()
    session = await user.create()
    for call in (user.page(token="x"), user.messages(session.session_id, token="-3")):
        error = await failure(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field(error) == "page_token"


async def test_a_deleted_session_is_gone_and_deleting_again_succeeds(any_stack: Stack) -> None:
    user = any_stack.user()
    session_id = (await user.create("r")).session_id
    await user.begin(session_id)
    await user.delete(session_id)
    await user.delete(session_id)
    assert (await failure(user.get(session_id))).code() == NOT_FOUND
    assert (await failure(user.begin(session_id))).code() == NOT_FOUND
    assert (await failure(user.messages(session_id))).code() == NOT_FOUND
    assert await user.all_sessions(5) == []
    await wait_until(lambda: session_id in any_stack.archive.deleted, SOON)
    assert await user.all_sessions(5) == []
    assert reason(await failure(user.create("r"))) == "SESSION_DELETED"


async def test_a_deleted_session_takes_its_turns_along(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    await held.say("half an")
    await user.delete(session_id)
    assert list((await held.record(["answer"])).missing_turn_ids) == [turn.turn_id] * 2
    assert (await failure(user.turn(turn.turn_id))).code() == NOT_FOUND
    assert await stack.due(turn.turn_id) is None


async def test_the_turns_of_a_deleted_session_are_gone_at_once(stack: Stack) -> None:
    """Also while the archive knows them and has not heard of the deletion."""
    user = stack.user()
    session_id = (await user.create()).session_id
    archived = await user.begin(session_id)
    await stack.answer(archived.turn_id, "Because.")
    await stack.archived(archived.turn_id)
    with stack.archiver.paused():
        ended = await user.begin(session_id)
        await stack.answer(ended.turn_id, "So.")
        running = await user.begin(session_id)
        await (await stack.claim(running.turn_id)).say("half an")
        watched = aiter(user.watch(running.turn_id))
        assert (await anext(watched)).frame.HasField("accepted")
        await user.delete(session_id)
        for turn in (archived, ended, running):
            for call in (
                user.turn(turn.turn_id),
                user.cancel(turn.turn_id),
                user.watch(turn.turn_id),
            ):
                assert (await failure(call)).code() == NOT_FOUND
        assert (await failure(watched)).code() == NOT_FOUND


async def test_nothing_brings_a_deleted_session_back(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id)
    job = await stack.jobs.next(turn.turn_id)
    await user.delete(session_id)
    assert (await stack.worker().claim(job)).HasField("gone")
    await wait_until(lambda: session_id in stack.archive.deleted, SOON)
    await stack.redis.flushdb()
    assert (await stack.worker().claim(job)).HasField("gone")
    assert (await failure(user.get(session_id))).code() == NOT_FOUND
    await user.delete(session_id)


async def test_another_user_finds_nothing(stack: Stack) -> None:
    owner = stack.user(tenant="t")
    session_id = (await owner.create()).session_id
    turn = await owner.begin(session_id, request_id="r")
    for stranger in (stack.user(tenant="t"), stack.user(name=owner.name)):
        for call in (
            stranger.get(session_id),
            stranger.messages(session_id),
            stranger.begin(session_id, request_id="r"),
            stranger.stream(session_id),
            stranger.delete(session_id),
            stranger.turn(turn.turn_id),
            stranger.watch(turn.turn_id),
            stranger.cancel(turn.turn_id),
        ):
            assert (await failure(call)).code() == NOT_FOUND
        assert await stranger.all_sessions(5) == []
    assert (await owner.turn(turn.turn_id)).turn_id == turn.turn_id


async def test_another_user_finds_no_turn_in_the_archive_either(stack: Stack) -> None:
    owner, stranger = stack.user(tenant="t"), stack.user(tenant="t")
    session_id = (await owner.create()).session_id
    turn = await owner.begin(session_id, "Why?", "r")
    await stack.answer(turn.turn_id, "Because.")
    await stack.archived(turn.turn_id)
    await stack.redis.flushdb()
    for call in (
        stranger.begin(session_id, "Why?", "r"),
        stranger.begin(session_id, "What?", "r"),
        stranger.turn(turn.turn_id),
        stranger.watch(turn.turn_id),
        stranger.cancel(turn.turn_id),
        stranger.messages(session_id),
        stranger.delete(session_id),
    ):
        assert (await failure(call)).code() == NOT_FOUND
    assert (await owner.begin(session_id, "Why?", "r")).outcome.text == "Because."


async def test_ids_of_no_form_are_refused_by_name(stack: Stack) -> None:
    user = stack.user()
    for call, field in (
        (user.get("x"), "session_id"),
        (user.begin("x"), "session_id"),
        (user.delete("*" * 40), "session_id"),
        (user.turn("x"), "turn_id"),
        (user.cancel("x" * 129), "turn_id"),
    ):
        error = await failure(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field(error) == field


async def test_live_sessions_work_while_the_archive_is_away(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create("r1")).session_id
    stack.archive.away = True
    with stack.archiver.paused():
        assert (await user.create("r1")).session_id == session_id
        turn = await user.begin(session_id)
        await stack.answer(turn.turn_id, "Because.")
        assert (await user.turn(turn.turn_id)).outcome.text == "Because."
        assert [m.text for m in await user.all_messages(session_id)] == ["Why?", "Because."]
        error = await failure(user.get("s" * 48))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert retry_after(error) > 0
        await user.delete(session_id)


async def test_a_retried_create_of_a_session_that_left_returns_it(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create("r1", title="Stars")).session_id
    await wait_until(lambda: session_id in stack.archive.sessions, SOON)
    await stack.redis.flushdb()
    again = await user.create("r1", title="Stars")
    assert (again.session_id, again.title) == (session_id, "Stars")
    assert await user.all_sessions(5) == [session_id]


async def test_a_url_of_the_store_that_cannot_be_used_ends_the_start_and_names_the_setting() -> (
    None
):
    with pytest.raises(BadSettings, match=r"MAIEUTIC_REDIS_URL: names several hosts: that needs"):
        async with session_stack("redis://127.0.0.1,127.0.0.1/0", flush=False):
            pass


async def test_sessions_can_live_in_memory_without_any_store_to_run() -> None:
    nowhere = "redis://127.0.0.1:1/0"
    async with session_stack(nowhere, flush=False, session_backend="memory") as stack:
        user = stack.user()
        session = await user.create(title="Stars")
        turn_id = (await user.begin(session.session_id)).turn_id
        await stack.answer(turn_id, "Because.")
        assert (await user.turn(turn_id)).outcome.text == "Because."


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"session_backend": "memory"}, "MAIEUTIC_DURABILITY: the memory has no replica"),
        ({"replica_timeout": 5.0}, "MAIEUTIC_REPLICA_TIMEOUT: must be less than MAIEUTIC_REDIS_T"),
    ],
)
async def test_a_durability_that_cannot_be_had_ends_the_start(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadSettings, match=says):
        async with session_stack(
            "redis://127.0.0.1:1/0", flush=False, durability="replicated", **settings
        ):
            pass
