"""Sessions as one list: orders, filters and pages over live and archived ones."""

import asyncio
from typing import Any

import grpc
import pytest

from maieutic.v1 import session_service_pb2 as pb
from services.session.adapters import keys
from services.session.model import Caller
from tests.session.stack import SOON, Stack, User, bad_field, failure
from tests.waiting import wait_until

ONE, TWO = "d" * 20, "e" * 20
NEWEST = pb.SESSION_ORDER_NEWEST_FIRST
OLDEST = pb.SESSION_ORDER_OLDEST_FIRST
USED = pb.SESSION_ORDER_LAST_USED_FIRST


async def _made(stack: Stack, user: User, number: int) -> list[str]:
    """Make sessions one after the other; every other one has left the live store."""
    made = []
    for _ in range(number):
        made.append((await user.create()).session_id)
        await asyncio.sleep(0.002)  # the order is by milliseconds
    await wait_until(lambda: all(s in stack.archive.sessions for s in made), SOON)
    for session_id in made[::2]:
        await stack.forget(session_id)
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 20])
async def test_live_and_archived_sessions_come_in_each_order_over_pages(
    stack: Stack, size: int
) -> None:
    user = stack.user()
    made = await _made(stack, user, 7)
    assert await user.all_sessions(size) == made[::-1]
    assert await user.all_sessions(size, order=NEWEST) == made[::-1]
    assert await user.all_sessions(size, order=OLDEST) == made
    await user.touch(made[3])
    await asyncio.sleep(0.002)
    await user.touch(made[1])
    rest = [s for s in made[::-1] if s not in (made[1], made[3])]
    assert await user.all_sessions(size, order=USED) == [made[1], made[3], *rest]


async def test_a_session_used_between_two_pages_comes_once_at_most(stack: Stack) -> None:
    user = stack.user()
    made = await _made(stack, user, 6)
    first, token = await user.page(3, order=USED)
    await user.touch(made[0])
    await user.touch(first[0].session_id)
    rest, _ = await user.page(6, token, order=USED)
    listed = [session.session_id for session in [*first, *rest]]
    assert len(set(listed)) == len(listed)
    assert set(made) - set(listed) <= {made[0]}


async def test_a_session_that_came_back_is_at_its_place_before_the_archive_hears_of_it(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    made = await _made(stack, user, 7)
    live = keys.owner_key(Caller(tenant=user.tenant, user=user.name).key)
    await stack.redis.zrem(live, *made[::2])  # as listing does once they have left for long
    with stack.archiver.paused():
        await user.get(made[0])
        assert set(await user.all_sessions(2, order=USED)) == set(made)
        await user.touch(made[2])
        await asyncio.sleep(0.002)
        await user.touch(made[0])
        listed = await user.all_sessions(2, order=USED)
        assert (listed[:2], set(listed)) == ([made[0], made[2]], set(made))
        assert await user.all_sessions(2) == made[::-1]


async def test_a_session_stays_on_the_list_as_long_as_it_lives(stack: Stack) -> None:
    user = stack.user()
    live = keys.owner_key(Caller(tenant=user.tenant, user=user.name).key)
    with stack.archiver.paused():  # nobody else has it on a list
        session_id = (await user.create()).session_id
        await stack.redis.zadd(live, {session_id: 1, "x" * 48: 1})  # made long ago
        for _ in range(2):
            assert await user.all_sessions(5) == [session_id]
        assert await stack.redis.zcard(live) == 1


@pytest.mark.parametrize(("first", "then"), [(NEWEST, OLDEST), (OLDEST, USED), (USED, NEWEST)])
async def test_a_token_of_another_order_is_refused(
    stack: Stack, first: pb.SessionOrder.ValueType, then: pb.SessionOrder.ValueType
) -> None:
    user = stack.user()
    for _ in range(2):
        await user.create()
    _, token = await user.page(1, order=first)
    error = await failure(user.page(1, token, order=then))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_field(error) == "page_token"


async def test_filters_pick_live_and_archived_sessions(any_stack: Stack) -> None:
    user = any_stack.user()
    socratic = await user.create(mode=pb.SESSION_MODE_SOCRATIC, metadata={"a": "1", "b": "2"})
    over = await user.create(document_ids=[ONE, TWO], metadata={"a": "1"})
    ended = await user.create(metadata={"a": "2"})
    await user.end(ended.session_id)
    expected: list[tuple[dict[str, Any], list[pb.Session]]] = [
        ({}, [ended, over, socratic]),
        ({"mode": pb.SESSION_MODE_SOCRATIC}, [socratic]),
        ({"mode": pb.SESSION_MODE_DIRECT}, [ended, over]),
        ({"state": pb.SESSION_STATE_OPEN}, [over, socratic]),
        ({"state": pb.SESSION_STATE_ENDED}, [ended]),
        ({"document_id": TWO}, [over]),
        ({"metadata": {"a": "1"}}, [over, socratic]),
        ({"metadata": {"a": "1", "b": "2"}}, [socratic]),
        ({"metadata": {"a": ""}}, []),
        ({"mode": pb.SESSION_MODE_SOCRATIC, "document_id": ONE}, []),
        ({"parent_session_id": socratic.session_id}, []),
    ]
    await wait_until(
        lambda: any_stack.archive.sessions[ended.session_id].session.HasField("end_time"), SOON
    )
    for archived in (False, True):
        if archived:
            await any_stack.redis.flushdb()
        for wanted, found in expected:
            listed = await user.all_sessions(1, filter=pb.SessionFilter(**wanted))
            names = [s for s in listed if s in {x.session_id for x in found}]
            assert sorted(listed) == sorted(x.session_id for x in found), (wanted, archived)
            assert len(names) == len(found)


async def test_a_filter_that_little_fits_is_searched_to_the_end_over_pages(stack: Stack) -> None:
    user = stack.user()
    rare = await user.create(metadata={"rare": "yes"})
    for batch in range(6):
        await asyncio.gather(*(user.create(f"{batch}.{number}") for number in range(50)))
    listed = await user.all_sessions(1, filter=pb.SessionFilter(metadata={"rare": "yes"}))
    assert listed == [rare.session_id]


async def test_what_expired_long_ago_does_not_say_when_it_expires(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await user.touch(session_id)
    await wait_until(lambda: session_id in stack.archive.sessions, SOON)
    await stack.redis.flushdb()
    (listed,), _ = await user.page()
    assert not listed.HasField("expire_time")
