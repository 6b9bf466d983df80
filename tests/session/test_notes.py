"""Notes and bookmarks over gRPC, on a real store."""

import asyncio

import grpc
from google.rpc.error_details_pb2 import QuotaFailure

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.turn_service_pb2 import BUSY_POLICY_ROLLBACK
from services.session.adapters import keys
from tests.backends.redis import RedisServer
from tests.proxy import proxy
from tests.session.stack import SOON, Stack, User, detail, failure, reason, session_stack
from tests.waiting import wait_until

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def _texts(user: User, session_id: str) -> list[str]:
    notes, _ = await user.notes(session_id)
    return [note.text for note in notes]


async def _annotated(stack: Stack, session_id: str, notes: int = 0, bookmarks: int = 0) -> None:
    """Wait until the archive has that many, and the live store knows."""

    async def settled() -> bool:
        kept = stack.archive.annotations.get(session_id)
        if kept is None or (len(kept.notes), len(kept.bookmarks)) != (notes, bookmarks):
            return False
        return int(await stack.redis.pttl(keys.record_key(session_id))) > 0

    await wait_until(settled, SOON)


async def test_notes_are_kept_in_their_order_until_they_are_deleted(any_stack: Stack) -> None:
    user = any_stack.user()
    made = await user.create()
    first = await user.add_note(made.session_id, "first")
    second = await user.add_note(made.session_id, "second")
    assert await _texts(user, made.session_id) == ["first", "second"]
    assert (await user.get(made.session_id)).revision > made.revision
    await user.delete_note(made.session_id, first.note_id)
    await user.delete_note(made.session_id, first.note_id)
    notes, _ = await user.notes(made.session_id)
    assert notes == [second]


async def test_notes_come_in_pages_without_gap_or_double(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    for number in range(7):
        await user.add_note(session_id, str(number))
    found, token = await user.notes(session_id, 3)
    await user.delete_note(session_id, found[-1].note_id)  # the place it was at still holds
    while token:
        more, token = await user.notes(session_id, 3, token)
        found += more
    assert [note.text for note in found] == [str(number) for number in range(7)]
    assert (await user.notes(session_id, 6))[1] == "", "six are left, and no page after them"
    error = await failure(user.notes(session_id, 3, "x"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_same_request_adds_one_note_and_another_is_refused(any_stack: Stack) -> None:
    user = any_stack.user()
    session_id = (await user.create()).session_id
    note = await user.add_note(session_id, "one", "r")
    assert await user.add_note(session_id, "one", "r") == note
    assert reason(await failure(user.add_note(session_id, "two", "r"))) == "REQUEST_ID_TAKEN"
    await user.delete_note(session_id, note.note_id)
    assert await user.add_note(session_id, "one", "r") == note
    assert await _texts(user, session_id) == []


async def test_a_bookmark_is_found_by_its_retry_also_when_its_message_is_undone(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await user.begin(session_id, "wrong")
    (said,) = await user.all_messages(session_id)
    bookmark = await user.add_bookmark(session_id, said.message_id, "here", "r")
    right = await user.begin(session_id, "right", policy=BUSY_POLICY_ROLLBACK)
    assert [m.text for m in await user.all_messages(session_id)] == ["right"]
    assert await user.add_bookmark(session_id, said.message_id, "here", "r") == bookmark
    other = await failure(user.add_bookmark(session_id, said.message_id, "there", "r"))
    assert reason(other) == "REQUEST_ID_TAKEN"
    anew = await failure(user.add_bookmark(session_id, said.message_id, "here"))
    assert reason(anew) == "MESSAGE_NOT_FOUND"
    await user.cancel(right.turn_id)


async def test_a_bookmark_that_was_deleted_does_not_come_back_with_its_retry(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, "Why?")
    (said,) = await user.all_messages(session_id)
    bookmark = await user.add_bookmark(session_id, said.message_id, "here", "r")
    await user.delete_bookmark(session_id, bookmark.bookmark_id)
    assert await user.add_bookmark(session_id, said.message_id, "here", "r") == bookmark
    assert await user.bookmarks(session_id) == ([], "")
    await user.cancel(turn.turn_id)


async def test_a_note_whose_commit_was_not_heard_of_is_added_once(
    valkey_server: RedisServer,
) -> None:
    async with proxy(valkey_server.port) as link:
        url = f"redis://127.0.0.1:{link.port}/0"
        async with session_stack(url) as stack:
            user = stack.user()
            session_id = (await user.create()).session_id
            lost = 0

            def first_exec(chunk: bytes) -> bool:
                nonlocal lost
                hit = b"EXEC" in chunk and b":op:" in chunk and lost == 0
                lost += hit
                return hit

            link.swallow_replies(first_exec)
            await user.add_note(session_id, "once")
            assert lost == 1
            assert await _texts(user, session_id) == ["once"]


async def test_notes_of_two_replicas_are_all_kept(two_replicas: Stack) -> None:
    user = two_replicas.user()
    session_id = (await user.create()).session_id
    both = [user.at(replica) for replica in two_replicas.replicas]
    await asyncio.gather(*(both[n % 2].add_note(session_id, str(n)) for n in range(20)))
    assert sorted(await _texts(user, session_id)) == sorted(str(n) for n in range(20))


async def test_notes_and_bookmarks_come_back_with_a_session_that_left(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id)
    await stack.answer(turn.turn_id, "Because.")
    await stack.archived(turn.turn_id)
    message = (await user.all_messages(session_id))[0]
    gone = await user.add_note(session_id, "gone", "g")
    note = await user.add_note(session_id, "kept", "k")
    await user.delete_note(session_id, gone.note_id)
    bookmark = await user.add_bookmark(session_id, message.message_id, "why", "b")
    await _annotated(stack, session_id, notes=1, bookmarks=1)
    await stack.redis.flushdb()
    assert await user.notes(session_id) == ([note], "")
    assert await user.bookmarks(session_id) == ([bookmark], "")
    # The markers were lost, but not what the requests have made.
    assert await user.add_note(session_id, "kept", "k") == note
    assert reason(await failure(user.add_note(session_id, "other", "k"))) == "REQUEST_ID_TAKEN"
    assert await user.add_bookmark(session_id, message.message_id, "why", "b") == bookmark
    assert len((await user.notes(session_id))[0]) == 1


async def test_a_session_does_not_expire_before_its_notes_are_archived(stack: Stack) -> None:
    """A turn's outcome, which may overtake the note, confirms the session but not the note."""
    user = stack.user()
    session_id = (await user.create()).session_id
    with stack.archiver.paused():
        await user.add_note(session_id, "unarchived")
        revision = (await user.get(session_id)).revision
        await stack.first.archive.MarkArchived(_session_archived(session_id, revision + 1))
        assert await stack.redis.pttl(keys.record_key(session_id)) == -1
        assert await stack.redis.pttl(keys.annotations_key(session_id)) == -1
    await _annotated(stack, session_id, notes=1)
    left = await stack.redis.pttl(keys.record_key(session_id))
    assert await stack.redis.pttl(keys.annotations_key(session_id)) > left


async def test_a_note_that_is_archived_while_a_turn_runs_counts_once_the_turn_is_over(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id)
    await user.add_note(session_id, "meanwhile")
    await wait_until(lambda: session_id in stack.archive.annotations, SOON)
    await stack.answer(turn.turn_id, "Because.")
    await _annotated(stack, session_id, notes=1)


def _session_archived(session_id: str, revision: int) -> work.MarkArchivedRequest:
    archived = work.ArchivedSession(session_id=session_id, revision=revision)
    return work.MarkArchivedRequest(sessions=[archived])


async def test_a_session_whose_notes_are_missing_or_old_is_read_from_the_archive(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await user.add_note(session_id, "one")
    old = await stack.redis.get(keys.annotations_key(session_id))
    assert old is not None
    await user.add_note(session_id, "two")
    await _annotated(stack, session_id, notes=2)
    for wrong in (None, old, b"damaged"):
        if wrong is None:
            await stack.redis.delete(keys.annotations_key(session_id))
        else:
            await stack.redis.set(keys.annotations_key(session_id), wrong)
        assert await _texts(user, session_id) == ["one", "two"]


async def test_a_bookmark_returns_to_its_message(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    for number in range(3):
        turn = await user.begin(session_id, f"question {number}")
        await stack.answer(turn.turn_id, f"answer {number}")
    messages = await user.all_messages(session_id)
    bookmark = await user.add_bookmark(session_id, messages[3].message_id, "here", "r")
    assert await user.add_bookmark(session_id, messages[3].message_id, "here", "r") == bookmark
    assert (bookmark.position, bookmark.label) == (4, "here")
    page, _ = await user.messages(session_id, 2, bookmark.page_token)
    assert [message.text for message in page] == ["answer 1", "question 1"]
    taken = await failure(user.add_bookmark(session_id, messages[2].message_id, "here", "r"))
    assert reason(taken) == "REQUEST_ID_TAKEN"
    await user.delete_bookmark(session_id, bookmark.bookmark_id)
    await user.delete_bookmark(session_id, bookmark.bookmark_id)
    assert await user.bookmarks(session_id) == ([], "")
    assert len(await user.all_messages(session_id)) == 6


async def test_a_message_that_only_the_archive_has_can_be_bookmarked(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    for number in range(12):  # more than the window holds
        turn = await user.begin(session_id, str(number))
        await stack.answer(turn.turn_id, "So.")
        await stack.archived(turn.turn_id)
    first = (await user.all_messages(session_id))[0]
    assert not await stack.redis.hexists(keys.messages_key(session_id), first.message_id)
    bookmark = await user.add_bookmark(session_id, first.message_id)
    page, token = await user.messages(session_id, 5, bookmark.page_token)
    assert ([message.text for message in page], token) == (["0"], "")


async def test_only_a_message_of_the_session_can_be_bookmarked(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    other = (await user.create()).session_id
    await stack.answer((await user.begin(other)).turn_id, "Because.")
    elsewhere = (await user.all_messages(other))[0].message_id
    for message_id in (elsewhere, "m" * 48):
        error = await failure(user.add_bookmark(session_id, message_id))
        assert (error.code(), reason(error)) == (NOT_FOUND, "MESSAGE_NOT_FOUND")


async def test_another_user_sees_and_changes_nothing(stack: Stack) -> None:
    owner = stack.user(tenant="t")
    session_id = (await owner.create()).session_id
    await stack.answer((await owner.begin(session_id)).turn_id, "Because.")
    message_id = (await owner.all_messages(session_id))[0].message_id
    note = await owner.add_note(session_id, "mine")
    bookmark = await owner.add_bookmark(session_id, message_id)
    for stranger in (stack.user(tenant="t"), stack.user(name=owner.name)):
        for call in (
            stranger.notes(session_id),
            stranger.add_note(session_id, "yours"),
            stranger.delete_note(session_id, note.note_id),
            stranger.bookmarks(session_id),
            stranger.add_bookmark(session_id, message_id),
            stranger.delete_bookmark(session_id, bookmark.bookmark_id),
        ):
            error = await failure(call)
            assert (error.code(), reason(error)) == (NOT_FOUND, "SESSION_NOT_FOUND")
    assert await owner.notes(session_id) == ([note], "")
    assert await owner.bookmarks(session_id) == ([bookmark], "")


async def test_a_deleted_session_takes_its_notes_along(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await user.add_note(session_id, "mine")
    await user.delete(session_id)
    for call in (user.notes(session_id), user.add_note(session_id, "back")):
        assert (await failure(call)).code() == NOT_FOUND
    assert not await stack.redis.exists(keys.annotations_key(session_id))


async def test_limits_are_named_and_bind_nobody_who_asks_again(
    valkey_server: RedisServer,
) -> None:
    async with session_stack(
        valkey_server.url, notes_per_session=2, bookmarks_per_session=2
    ) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        await stack.answer((await user.begin(session_id)).turn_id, "Because.")
        message_id = (await user.all_messages(session_id))[0].message_id
        notes = [await user.add_note(session_id, "n", f"r{n}") for n in range(2)]
        for number in range(2):
            await user.add_bookmark(session_id, message_id, request_id=f"b{number}")
        for limit, call in (
            ("notes_per_session", user.add_note(session_id, "one too many")),
            ("bookmarks_per_session", user.add_bookmark(session_id, message_id)),
        ):
            error = await failure(call)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            quota: QuotaFailure = detail(error, QuotaFailure)
            assert quota.violations[0].subject == limit
            assert f"{limit} is reached: at most 2" in (error.details() or "")
        assert await user.add_note(session_id, "n", "r1") == notes[1]
        await user.delete_note(session_id, notes[0].note_id)
        await user.add_note(session_id, "room again")
