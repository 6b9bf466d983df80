"""Changing sessions over gRPC: update by field, end, touch, and the limits of it."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import QuotaFailure

from maieutic.bus.v1.bus_pb2 import SessionChanged
from maieutic.v1 import session_service_pb2 as pb
from tests.backends.redis import RedisServer
from tests.proxy import proxy
from tests.session.stack import (
    SOON,
    Stack,
    User,
    bad_field,
    detail,
    failure,
    reason,
    session_stack,
)
from tests.waiting import wait_until

NOT_FOUND = grpc.StatusCode.NOT_FOUND
DOCUMENT = "d" * 20


async def test_an_update_changes_what_it_names_and_nothing_else(any_stack: Stack) -> None:
    user = any_stack.user()
    made = await user.create(title="Stars", metadata={"a": "b"}, document_ids=[DOCUMENT])
    changed = await user.update(made.session_id, title="Moons", mode=pb.SESSION_MODE_SOCRATIC)
    assert (changed.title, changed.mode) == ("Moons", pb.SESSION_MODE_SOCRATIC)
    assert (dict(changed.metadata), list(changed.document_ids)) == ({"a": "b"}, [DOCUMENT])
    assert changed.revision > made.revision
    changed = await user.update(made.session_id, metadata={"c": "d"}, document_ids=[])
    assert (dict(changed.metadata), list(changed.document_ids)) == ({"c": "d"}, [])
    found = await user.get(made.session_id)
    found.ClearField("expire_time")  # it is settled once the archive has confirmed it
    assert found == changed


async def test_a_mask_of_other_fields_is_refused_by_name(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    for paths in ([], ["revision"], ["title", "user_id"]):
        request = pb.UpdateSessionRequest(session_id=session_id, request_id="r")
        request.update_mask.paths.extend(paths)
        with user.acting() as replica:
            error = await failure(replica.sessions.UpdateSession(request))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field(error) == "update_mask"


async def test_a_stale_write_is_aborted_and_told_the_revision(any_stack: Stack) -> None:
    user = any_stack.user()
    made = await user.create(title="Stars")
    newer = await user.update(made.session_id, title="Moons", expected=made.revision)
    error = await failure(user.update(made.session_id, title="Suns", expected=made.revision))
    assert error.code() == grpc.StatusCode.ABORTED
    assert reason(error) == "REVISION_MISMATCH"
    mismatch: pb.RevisionMismatch = detail(error, pb.RevisionMismatch)
    assert mismatch.session_id == made.session_id
    assert mismatch.expected_revision == made.revision
    assert mismatch.current_revision == newer.revision
    assert (await user.get(made.session_id)).title == "Moons"


async def test_of_writers_that_expect_the_same_revision_one_wins(two_replicas: Stack) -> None:
    user = two_replicas.user()
    made = await user.create()
    users = [user.at(two_replicas.replicas[number % 2]) for number in range(8)]
    results = await asyncio.gather(
        *(
            who.update(made.session_id, title=str(number), expected=made.revision)
            for number, who in enumerate(users)
        ),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, pb.Session)]
    lost = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert (len(won), len(lost)) == (1, 7)
    assert {reason(error) for error in lost} == {"REVISION_MISMATCH"}
    assert (await user.get(made.session_id)).title == won[0].title


async def test_writers_without_a_revision_all_succeed(two_replicas: Stack) -> None:
    user = two_replicas.user()
    session_id = (await user.create()).session_id

    async def write(number: int) -> pb.Session:
        who = user.at(two_replicas.replicas[number % 2])
        return await who.update(session_id, title=str(number))

    done = await asyncio.gather(*map(write, range(20)))
    assert len({session.revision for session in done}) == 20
    last = max(done, key=lambda session: session.revision)
    assert (await user.get(session_id)).title == last.title


async def test_the_same_request_again_changes_nothing(any_stack: Stack) -> None:
    user = any_stack.user()
    made = await user.create()
    first = await user.update(made.session_id, "r", title="One", expected=made.revision)
    await user.update(made.session_id, title="Two")
    again = await user.update(made.session_id, "r", title="One", expected=made.revision)
    assert again.title == "Two"
    assert again.revision > first.revision
    assert reason(await failure(user.update(made.session_id, "r", title="Three"))) == (
        "REQUEST_ID_TAKEN"
    )


async def test_an_update_whose_commit_was_not_heard_of_is_made_once(
    valkey_server: RedisServer,
) -> None:
    """Made again blindly, it would meet its own revision and be refused."""
    async with proxy(valkey_server.port) as link:
        url = f"redis://127.0.0.1:{link.port}/0"
        async with session_stack(url) as stack:
            user = stack.user()
            made = await user.create()
            lost = 0

            def first_exec(chunk: bytes) -> bool:
                nonlocal lost
                hit = b"EXEC" in chunk and b":op:" in chunk and lost == 0
                lost += hit
                return hit

            link.swallow_replies(first_exec)
            done = await user.update(made.session_id, title="Once", expected=made.revision)
            assert lost == 1
            assert done.title == "Once"
            assert (await user.get(made.session_id)).revision == done.revision


async def test_an_update_reaches_the_archive_and_comes_back_from_there(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(title="Stars")).session_id
    changed = await user.update(session_id, title="Moons", metadata={"k": "v"})

    def kept() -> bool:
        known = stack.archive.sessions.get(session_id)
        return known is not None and known.session.revision == changed.revision

    await wait_until(kept, SOON)
    await stack.redis.flushdb()
    found = await user.get(session_id)
    assert (found.title, dict(found.metadata)) == ("Moons", {"k": "v"})
    assert found.revision == changed.revision, "nobody has changed it since"
    with stack.archiver.paused():  # so that the archive does not know of the next one
        later = await user.update(session_id, title="Suns", expected=changed.revision)
        await stack.redis.flushdb()
        stale = await failure(user.update(session_id, title="Tea", expected=later.revision))
    assert detail(stale, pb.RevisionMismatch).current_revision == changed.revision


async def test_a_session_that_left_is_updated_where_it_is(stack: Stack) -> None:
    user = stack.user()
    made = await user.create(title="Stars")
    await wait_until(lambda: made.session_id in stack.archive.sessions, SOON)
    await stack.redis.flushdb()
    assert (await user.update(made.session_id, title="Moons")).title == "Moons"


async def test_an_ended_session_begins_no_turn_and_stays_readable(any_stack: Stack) -> None:
    user = any_stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, "Why?", "r")
    ended = await user.end(session_id)
    assert ended.HasField("end_time")
    error = await failure(user.begin(session_id, "And then?"))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason(error) == "SESSION_ENDED"
    # What was begun goes on, and is found again by its request.
    assert (await user.begin(session_id, "Why?", "r")).turn_id == turn.turn_id
    await any_stack.answer(turn.turn_id, "Because.")
    assert (await user.ended(turn.turn_id)).outcome.text == "Because."
    assert [m.text for m in await user.all_messages(session_id)] == ["Why?", "Because."]
    again = await user.end(session_id)
    assert again.end_time == ended.end_time
    assert (await user.update(session_id, title="Done")).title == "Done"


async def test_an_end_outlives_the_live_store(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await user.end(session_id)
    await wait_until(lambda: stack.archive.sessions[session_id].session.HasField("end_time"), SOON)
    await stack.redis.flushdb()
    assert reason(await failure(user.begin(session_id))) == "SESSION_ENDED"


async def test_a_touch_puts_the_expiry_off(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    first = await _settled(user, session_id)
    used = await user.touch(session_id)
    assert used.revision > first.revision
    assert used.last_used_time.ToMilliseconds() >= first.last_used_time.ToMilliseconds()
    later = await _settled(user, session_id)
    assert later.expire_time.ToMilliseconds() >= first.expire_time.ToMilliseconds()


async def test_a_read_says_when_the_session_expires_by_then(valkey_server: RedisServer) -> None:
    async with session_stack(valkey_server.url, idle=2.0) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        first = await _settled(user, session_id)

        async def put_off() -> bool:
            found = await user.get(session_id)
            return found.expire_time.ToMilliseconds() > first.expire_time.ToMilliseconds() + 900

        await wait_until(put_off, SOON)
        (listed,), _ = await user.page(1)
        shown = listed.expire_time.ToMilliseconds() - first.expire_time.ToMilliseconds()
        assert shown > 500


async def _settled(user: User, session_id: str) -> pb.Session:
    async def expires() -> bool:
        return (await user.get(session_id)).HasField("expire_time")

    await wait_until(expires, SOON)
    return await user.get(session_id)


async def test_another_user_changes_nothing(stack: Stack) -> None:
    owner = stack.user(tenant="t")
    made = await owner.create(title="Stars")
    for stranger in (stack.user(tenant="t"), stack.user(name=owner.name)):
        for call in (
            stranger.update(made.session_id, title="Mine"),
            stranger.end(made.session_id),
            stranger.touch(made.session_id),
        ):
            assert (await failure(call)).code() == NOT_FOUND
    found = await owner.get(made.session_id)
    assert (found.title, found.revision) == ("Stars", made.revision)


async def test_a_deleted_session_is_not_changed(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await user.delete(session_id)
    for call in (
        user.update(session_id, title="Back"),
        user.end(session_id),
        user.touch(session_id),
    ):
        assert (await failure(call)).code() == NOT_FOUND


async def test_ids_of_no_form_are_refused_before_anything_is_asked(stack: Stack) -> None:
    user = stack.user()
    for call in (user.update("x", title="T"), user.end("*" * 40), user.touch("x" * 129)):
        error = await failure(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field(error) == "session_id"


@pytest.mark.parametrize(
    "metadata", [{"k": "v" * 99}, {"é" * 50: ""}, {"a": "b" * 50, "c": "d" * 50}]
)
async def test_metadata_over_its_limit_is_refused_by_the_limits_name(
    valkey_server: RedisServer, metadata: dict[str, str]
) -> None:
    async with session_stack(valkey_server.url, metadata_bytes=99) as stack:
        user = stack.user()
        session_id = (await user.create(metadata={"k": "v" * 98})).session_id
        calls: list[Any] = [
            user.create(metadata=metadata),
            user.get_or_create(metadata=metadata),
            user.update(session_id, metadata=metadata),
        ]
        for call in calls:
            error = await failure(call)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert bad_field(error) == "metadata"
            assert "metadata_bytes is 99" in (error.details() or "")


async def test_a_user_has_no_more_sessions_than_the_limit_named(
    valkey_server: RedisServer,
) -> None:
    async with session_stack(valkey_server.url, sessions_per_user=3) as stack:
        user = stack.user()
        made = [(await user.create(f"r{number}")).session_id for number in range(2)]
        made.append((await user.get_or_create()).session.session_id)
        for call in (user.create(), user.get_or_create(DOCUMENT)):
            error = await failure(call)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason(error) == "LIMIT_REACHED"
            quota: QuotaFailure = detail(error, QuotaFailure)
            assert quota.violations[0].subject == "sessions_per_user"
            assert "sessions_per_user is reached: at most 3" in (error.details() or "")
        # What is there is found all the same, and others have limits of their own.
        assert (await user.create("r0")).session_id == made[0]
        assert not (await user.get_or_create()).created
        await stack.user(tenant=user.tenant).create()
        assert sorted(await user.all_sessions(10)) == sorted(made)
        await user.delete(made[0])
        await wait_until(lambda: made[0] in stack.archive.deleted, SOON)
        await user.create()


async def test_the_limit_counts_sessions_that_left_the_live_store(
    valkey_server: RedisServer,
) -> None:
    async with session_stack(valkey_server.url, sessions_per_user=2) as stack:
        user = stack.user()
        made = [(await user.create()).session_id for _ in range(2)]
        await wait_until(lambda: all(s in stack.archive.sessions for s in made), SOON)
        await stack.redis.flushdb()
        assert reason(await failure(user.create())) == "LIMIT_REACHED"


async def test_a_session_that_the_archive_has_before_the_store_hears_of_it_counts_once(
    valkey_server: RedisServer,
) -> None:
    async with session_stack(valkey_server.url, sessions_per_user=2) as stack:
        user = stack.user()
        with stack.archiver.paused():
            made = await user.create()
            stack.archive.change(SessionChanged(tenant=user.tenant, session=made))
            await user.create()
            assert reason(await failure(user.create())) == "LIMIT_REACHED"


async def test_sessions_are_created_beside_an_archive_of_the_version_before(stack: Stack) -> None:
    stack.archive.old = True
    user = stack.user()
    session_id = (await user.create()).session_id
    assert await user.all_sessions(5) == [session_id]
