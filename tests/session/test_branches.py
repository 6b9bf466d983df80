"""Branches over gRPC: sessions that begin with another one's messages, on a real store."""

import asyncio

import grpc

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.message_pb2 import Message
from maieutic.v1.turn_service_pb2 import BUSY_POLICY_ROLLBACK
from services.session.adapters import keys
from tests.backends.redis import RedisServer
from tests.session.stack import SOON, Stack, User, failure, reason, session_stack
from tests.waiting import wait_until

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def _talk(stack: Stack, user: User, session_id: str, number: int, first: int = 0) -> None:
    for n in range(first, first + number):
        turn = await user.begin(session_id, f"question {n}")
        await stack.answer(turn.turn_id, f"answer {n}")
        await user.ended(turn.turn_id)


async def _texts(user: User, session_id: str) -> list[str]:
    return [message.text for message in await user.all_messages(session_id)]


async def test_a_branch_begins_with_the_messages_up_to_its_point(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    parent = await user.create(
        title="Stars",
        mode=pb.SESSION_MODE_SOCRATIC,
        metadata={"a": "b"},
        document_ids=["d" * 20],
    )
    await _talk(stack, user, parent.session_id, 3)
    messages = await user.all_messages(parent.session_id)
    branch = await user.branch(parent.session_id, messages[2].message_id)
    assert branch.session_id[:24] == parent.session_id[:24]
    assert branch.parent_session_id == parent.session_id
    assert branch.parent_message_id == messages[2].message_id
    assert (branch.title, branch.mode) == ("Stars", pb.SESSION_MODE_SOCRATIC)
    assert (dict(branch.metadata), list(branch.document_ids)) == ({"a": "b"}, ["d" * 20])
    assert branch.message_count == 3
    found = await user.all_messages(branch.session_id)
    assert [message.text for message in found] == ["question 0", "answer 0", "question 1"]
    assert [message.position for message in found] == [1, 2, 3]
    assert [m.origin_message_id for m in found] == [m.message_id for m in messages[:3]]
    assert {message.session_id for message in found} == {branch.session_id}
    assert not {m.message_id for m in found} & {m.message_id for m in messages}
    listed = await user.all_sessions(
        1, filter=pb.SessionFilter(parent_session_id=parent.session_id)
    )
    assert listed == [branch.session_id]


async def test_parent_and_branch_go_their_own_ways(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    parent = await user.create(title="Stars")
    await _talk(stack, user, parent.session_id, 1)
    point = (await user.all_messages(parent.session_id))[-1]
    branch = await user.branch(parent.session_id, point.message_id, title="Moons")
    turn = await user.begin(branch.session_id, "What of the branch?")
    held = await stack.claim(turn.turn_id)
    # The worker sees what was carried, and then the question.
    assert [m.text for m in held.claim.window] == ["question 0", "answer 0", "What of the branch?"]
    await held.say("Its own.")
    await held.complete("Its own.")
    await user.ended(turn.turn_id)
    await _talk(stack, user, parent.session_id, 1, first=1)
    begun = ["question 0", "answer 0"]
    assert await _texts(user, parent.session_id) == [*begun, "question 1", "answer 1"]
    assert await _texts(user, branch.session_id) == [*begun, "What of the branch?", "Its own."]
    assert (await user.get(parent.session_id)).title == "Stars"
    assert (await user.get(branch.session_id)).title == "Moons"


async def test_a_branch_outlives_its_parent_and_a_parent_its_branch(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    parent = (await user.create()).session_id
    await _talk(stack, user, parent, 2)
    point = (await user.all_messages(parent))[1].message_id
    one = (await user.branch(parent, point, "r1")).session_id
    two = (await user.branch(parent, point, "r2")).session_id
    await user.delete(two)
    assert len(await user.all_messages(parent)) == 4
    turn = await user.begin(parent, "Still there?")
    await stack.answer(turn.turn_id, "Yes.")
    await stack.archived(turn.turn_id)
    await user.delete(parent)
    await wait_until(lambda: parent in stack.archive.deleted, SOON)
    for _ in range(2):
        assert await _texts(user, one) == ["question 0", "answer 0"]
        # The same request finds it without its parent.
        assert (await user.branch(parent, point, "r1")).session_id == one
        await stack.redis.flushdb()
    assert (await failure(user.branch(parent, point))).code() == NOT_FOUND


async def test_the_same_request_makes_one_branch(two_replicas: Stack) -> None:
    stack, user = two_replicas, two_replicas.user()
    parent = (await user.create()).session_id
    await _talk(stack, user, parent, 1)
    messages = await user.all_messages(parent)
    both = [user.at(replica) for replica in stack.replicas]
    made = await asyncio.gather(
        *(both[n % 2].branch(parent, messages[1].message_id, "r") for n in range(6))
    )
    assert len({session.session_id for session in made}) == 1
    assert len(await user.all_messages(made[0].session_id)) == 2
    assert reason(await failure(user.branch(parent, messages[0].message_id, "r"))) == (
        "REQUEST_ID_TAKEN"
    )
    await user.delete(made[0].session_id)
    again = await failure(user.branch(parent, messages[1].message_id, "r"))
    assert reason(again) == "SESSION_DELETED"


async def test_a_branch_has_what_left_the_window_and_what_is_not_archived_yet(
    stack: Stack,
) -> None:
    user = stack.user()
    parent = (await user.create()).session_id
    await _talk(stack, user, parent, 12)  # more than the window holds
    oldest = (await user.all_messages(parent))[0].message_id

    async def trimmed() -> bool:
        return not await stack.redis.hexists(keys.messages_key(parent), oldest)

    await wait_until(trimmed, SOON)
    with stack.archiver.paused():
        await _talk(stack, user, parent, 2, first=12)
        messages = await user.all_messages(parent)
        assert len(messages) == 28
        branch = await user.branch(parent, messages[26].message_id)
        whole = [message.text for message in messages[:27]]
        assert await _texts(user, branch.session_id) == whole
        early = await user.branch(parent, messages[0].message_id)
        assert await _texts(user, early.session_id) == ["question 0"]
    assert await _texts(user, branch.session_id) == whole


async def test_a_branch_of_a_branch_and_of_a_session_that_left(stack: Stack) -> None:
    user = stack.user()
    parent = (await user.create()).session_id
    await _talk(stack, user, parent, 2)
    last = await user.all_messages(parent)
    await stack.archived(last[-1].turn_id)
    await stack.redis.flushdb()
    child = (await user.branch(parent, last[2].message_id)).session_id
    inner: list[Message] = await user.all_messages(child)
    grandchild = await user.branch(child, inner[1].message_id)
    assert grandchild.parent_session_id == child
    await user.delete(parent)
    await user.delete(child)
    assert await _texts(user, grandchild.session_id) == ["question 0", "answer 0"]


async def test_a_branch_that_was_begun_and_left_is_found_whole_by_its_retry(stack: Stack) -> None:
    """As if the service was killed between the archive's commit and the live store's."""
    user = stack.user()
    parent = (await user.create()).session_id
    await _talk(stack, user, parent, 1)
    point = (await user.all_messages(parent))[1].message_id
    branch = (await user.branch(parent, point, "r")).session_id
    await stack.forget(branch)
    assert (await user.branch(parent, point, "r")).session_id == branch
    assert await _texts(user, branch) == ["question 0", "answer 0"]


async def test_without_the_archive_there_is_no_half_branch(stack: Stack) -> None:
    user = stack.user()
    parent = (await user.create()).session_id
    await _talk(stack, user, parent, 1)
    point = (await user.all_messages(parent))[1].message_id
    stack.archive.away = True
    error = await failure(user.branch(parent, point, "r"))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    stack.archive.away = False
    assert len(await user.all_sessions(5)) == 1
    branch = await user.branch(parent, point, "r")
    assert branch.message_count == 2


async def test_only_a_message_of_the_session_is_a_point(stack: Stack) -> None:
    user = stack.user()
    one, two = [(await user.create()).session_id for _ in range(2)]
    await _talk(stack, user, two, 1)
    elsewhere = (await user.all_messages(two))[0].message_id
    for message_id in (elsewhere, "m" * 48):
        error = await failure(user.branch(one, message_id))
        assert (error.code(), reason(error)) == (NOT_FOUND, "MESSAGE_NOT_FOUND")


async def test_another_user_branches_nothing_and_finds_no_branch(stack: Stack) -> None:
    owner = stack.user(tenant="t")
    parent = (await owner.create()).session_id
    await _talk(stack, owner, parent, 1)
    point = (await owner.all_messages(parent))[0].message_id
    branch = (await owner.branch(parent, point, "r")).session_id
    for stranger in (stack.user(tenant="t"), stack.user(name=owner.name)):
        for call in (
            stranger.branch(parent, point, "r"),
            stranger.branch(parent, point, "other"),
            stranger.get(branch),
            stranger.statistics(parent),
        ):
            error = await failure(call)
            assert (error.code(), reason(error)) == (NOT_FOUND, "SESSION_NOT_FOUND")


async def test_a_branch_counts_for_the_limit(valkey_server: RedisServer) -> None:
    async with session_stack(valkey_server.url, sessions_per_user=2) as stack:
        user = stack.user()
        parent = (await user.create()).session_id
        await _talk(stack, user, parent, 1)
        point = (await user.all_messages(parent))[0].message_id
        branch = await user.branch(parent, point, "r")
        assert reason(await failure(user.branch(parent, point))) == "LIMIT_REACHED"
        assert (await user.branch(parent, point, "r")).session_id == branch.session_id


async def test_a_branch_of_a_standing_session_or_an_ended_one_is_free(stack: Stack) -> None:
    user = stack.user()
    standing = (await user.get_or_create("d" * 20)).session.session_id
    await _talk(stack, user, standing, 1)
    await user.end(standing)
    point = (await user.all_messages(standing))[1].message_id
    branch = await user.branch(standing, point)
    assert not branch.document_set_id
    assert not branch.HasField("end_time")
    assert not list((await user.update(branch.session_id, document_ids=[])).document_ids)
    await _talk(stack, user, branch.session_id, 1, first=1)


async def test_what_was_rolled_back_is_in_no_branch_and_under_no_bookmark(stack: Stack) -> None:
    user = stack.user()
    parent = (await user.create()).session_id
    await _talk(stack, user, parent, 1)
    wrong = await user.begin(parent, "wrong")
    said = (await user.all_messages(parent))[-1]
    await wait_until(lambda: wrong.turn_id in stack.archive.accepted, SOON)
    with stack.archiver.paused():  # it does not hear of the rollback
        right = await user.begin(parent, "right", policy=BUSY_POLICY_ROLLBACK)
        await stack.answer(right.turn_id, "Good.")
        await user.ended(right.turn_id)
        last = (await user.all_messages(parent))[-1]
        branch = await user.branch(parent, last.message_id)
        texts = ["question 0", "answer 0", "right", "Good."]
        assert await _texts(user, branch.session_id) == texts
        for call in (
            user.branch(parent, said.message_id),
            user.add_bookmark(parent, said.message_id),
        ):
            assert reason(await failure(call)) == "MESSAGE_NOT_FOUND"
