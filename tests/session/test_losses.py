"""The live store is emptied: nobody is told that what comes back does not exist."""

import grpc
import pytest

from services.session.adapters import keys
from services.session.losses import BACK_WITHIN_SECONDS, Losses
from tests.session.stack import SOON, Stack, failure, kinds, reason, retry_after
from tests.waiting import wait_until


@pytest.fixture
async def known(stack: Stack) -> Stack:
    """Return a stack whose service has seen its store."""

    async def has_name() -> bool:
        return bool(await stack.redis.exists(keys.content_key()))

    await wait_until(has_name, SOON)
    return stack


async def test_a_turn_that_only_its_job_knows_is_not_denied_until_it_is_back(known: Stack) -> None:
    user = known.user()
    session_id = (await user.create()).session_id
    await wait_until(lambda: session_id in known.archive.sessions, SOON)
    with known.archiver.paused():
        turn_id = (await user.begin(session_id)).turn_id
        job = await known.jobs.next(turn_id)
        await known.redis.flushdb()
        for call in (user.turn(turn_id), user.cancel(turn_id), user.watch(turn_id)):
            error = await failure(call)
            assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "TURN_NOT_BACK")
            assert retry_after(error) > 0
        await known.worker().claimed(job)
        assert (await user.turn(turn_id)).turn_id == turn_id


async def test_a_stream_goes_on_over_the_loss_of_its_turn(known: Stack) -> None:
    user = known.user()
    session_id = (await user.create()).session_id
    await wait_until(lambda: session_id in known.archive.sessions, SOON)
    with known.archiver.paused():
        turn_id = (await user.begin(session_id)).turn_id
        job = await known.jobs.next(turn_id)
        stream = aiter(user.watch(turn_id))
        frames = [(await anext(stream)).frame]
        await known.redis.flushdb()
        assert reason(await failure(user.turn(turn_id))) == "TURN_NOT_BACK"
        held = await known.worker().claimed(job)
        await held.say("Because.")
        await held.complete("Because.")
    frames += [response.frame async for response in stream]
    assert kinds(frames).count("outcome") == 1
    assert frames[-1].outcome.text == "Because."


async def test_a_turn_that_may_have_ended_before_a_loss_is_no_reason_to_be_busy(
    known: Stack,
) -> None:
    user = known.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id)).turn_id
    await wait_until(lambda: turn_id in known.archive.accepted, SOON)
    assert reason(await failure(user.begin(session_id, "And?"))) == "SESSION_BUSY"
    await known.redis.flushdb()
    error = await failure(user.begin(session_id, "And?", "next"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "SESSION_SETTLING")
    assert retry_after(error) > 0
    await known.answer(turn_id, "Because.")
    await known.archived(turn_id)
    assert (await user.begin(session_id, "And?", "next")).text == "And?"


async def test_without_a_loss_an_unknown_turn_does_not_exist(known: Stack) -> None:
    error = await failure(known.user().turn("t" * 48))
    assert error.code() == grpc.StatusCode.NOT_FOUND


async def test_what_is_not_back_in_time_is_taken_for_gone() -> None:
    now, content = [0.0], ["one"]

    async def content_id() -> str:
        return content[0]

    losses = Losses(content_id, clock=lambda: now[0])
    assert not await losses.lately()
    content[0] = "another"
    assert await losses.lately()
    now[0] = BACK_WITHIN_SECONDS
    assert not await losses.lately()
