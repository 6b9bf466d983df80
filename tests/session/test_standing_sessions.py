"""The standing session of a user over a set of documents."""

import asyncio

import grpc

from maieutic.v1 import session_service_pb2 as pb
from tests.session.stack import SOON, Stack, failure, reason
from tests.waiting import wait_until

ONE, TWO = "d" * 20, "e" * 20


async def test_the_same_set_gives_the_same_session_in_any_order(any_stack: Stack) -> None:
    user = any_stack.user()
    made = await user.get_or_create(ONE, TWO, title="Both", mode=pb.SESSION_MODE_SOCRATIC)
    assert made.created
    again = await user.get_or_create(TWO, ONE, title="Other")
    assert not again.created
    assert again.session.session_id == made.session.session_id
    assert (again.session.title, again.session.mode) == ("Both", pb.SESSION_MODE_SOCRATIC)
    assert await user.all_sessions(5) == [made.session.session_id]


async def test_each_set_and_each_user_has_its_own(stack: Stack) -> None:
    user, other = stack.user(tenant="t"), stack.user(tenant="t")
    found = [
        await user.get_or_create(),
        await user.get_or_create(ONE),
        await user.get_or_create(ONE, TWO),
        await other.get_or_create(ONE),
        await stack.user(name=user.name).get_or_create(ONE),
    ]
    assert len({answer.session.session_id for answer in found}) == 5


async def test_many_that_ask_at_once_get_one_session(two_replicas: Stack) -> None:
    user = two_replicas.user()
    answers = await asyncio.gather(
        *(user.at(two_replicas.replicas[n % 2]).get_or_create(ONE) for n in range(10))
    )
    assert len({answer.session.session_id for answer in answers}) == 1
    assert len(await user.all_sessions(5)) == 1


async def test_one_that_was_ended_or_deleted_gives_way_to_a_new_one(any_stack: Stack) -> None:
    user = any_stack.user()
    seen = []
    for number in range(6):
        answer = await user.get_or_create(ONE)
        assert answer.created
        seen.append(answer.session.session_id)
        await (user.end if number % 2 else user.delete)(seen[-1])
    last = (await user.get_or_create(ONE)).session.session_id
    assert last not in seen
    assert (await user.get_or_create(ONE)).session.session_id == last


async def test_what_is_past_stays_so_after_the_store_lost_everything(stack: Stack) -> None:
    user = stack.user()
    first = (await user.get_or_create(ONE)).session.session_id
    await user.delete(first)
    second = (await user.get_or_create(ONE)).session.session_id
    await wait_until(
        lambda: first in stack.archive.deleted and second in stack.archive.sessions, SOON
    )
    await stack.redis.flushdb()
    found = await user.get_or_create(ONE)
    assert (found.session.session_id, found.created) == (second, False)


async def test_its_documents_are_fixed_and_the_rest_is_not(stack: Stack) -> None:
    user = stack.user()
    session = (await user.get_or_create(ONE, TWO)).session
    error = await failure(user.update(session.session_id, document_ids=[ONE]))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason(error) == "DOCUMENT_SET_FIXED"
    same = await user.update(session.session_id, document_ids=[TWO, ONE], title="Both")
    assert same.title == "Both"


async def test_other_sessions_share_its_documents(stack: Stack) -> None:
    user = stack.user()
    standing = (await user.get_or_create(ONE)).session
    other = await user.create(document_ids=[ONE])
    assert other.session_id != standing.session_id
    matching = pb.SessionFilter(document_id=ONE)
    listed = await user.all_sessions(5, filter=matching)
    assert sorted(listed) == sorted([standing.session_id, other.session_id])
