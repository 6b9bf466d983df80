"""Whoever waits for the archive takes no connection from those who need none of it."""

import asyncio

from maieutic.v1.session_service_pb2 import Session
from tests.session.stack import SOON, Stack, failure, session_stack
from tests.waiting import wait_until

CONNECTIONS = 4
PLACES = CONNECTIONS // 2


async def slowed(stack: Stack, callers: int) -> list[asyncio.Task[Session]]:
    """Let as many wait for an archive that does not count as may, and the rest for their turn."""
    stack.archive.counts.clear()
    reads = stack.archive.reads
    creating = [asyncio.create_task(stack.user().create()) for _ in range(callers)]
    # Each asks for the session first, and then for the number of those that there are.
    await wait_until(lambda: stack.archive.reads >= reads + 2 * PLACES, SOON)
    return creating


async def test_however_many_wait_for_the_archive_live_sessions_go_on(store_url: str) -> None:
    async with session_stack(store_url, redis_connections=CONNECTIONS) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        creating = await slowed(stack, 3 * CONNECTIONS)
        for title in ("a", "b"):
            assert (await user.update(session_id, title=title)).title == title
        turn = await user.begin(session_id)
        await stack.answer(turn.turn_id, "Because.")
        assert (await user.ended(turn.turn_id)).outcome.text == "Because."
        assert not any(task.done() for task in creating)
        stack.archive.counts.set()
        created = await asyncio.gather(*creating)
        assert len(created) == 3 * CONNECTIONS


async def test_who_waits_too_long_for_a_turn_at_the_archive_is_told_why(store_url: str) -> None:
    async with session_stack(store_url, redis_connections=CONNECTIONS, redis_timeout=0.6) as stack:
        user = stack.user()
        creating = await slowed(stack, PLACES)
        error = await failure(user.create())
        assert error.code().name == "UNAVAILABLE"
        assert "the archive, which is slow" in str(error.details())
        stack.archive.counts.set()
        await asyncio.gather(*creating)
        await user.create()
