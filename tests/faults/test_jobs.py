"""Jobs that are not confirmed, come twice, or were never sent."""

import asyncio
from collections.abc import Sequence

import aio_pika
import pytest

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnFrame
from maieutic_client import AlreadyExists, Maieutic, TurnStream
from tests.faults.steps import (
    PATIENCE,
    about_turn,
    archived_turn,
    kinds,
    one_answer,
    published_jobs,
    said,
    scripted,
    until_event,
)
from tests.proxy import Direction
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

ANSWER = "one two three four five"
QUESTION = scripted(text=ANSWER, delay=0.05)


async def test_a_session_service_killed_between_its_commit_and_its_publish_loses_no_turn(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    link = stack.bus["session"]
    async with (
        published_jobs(stack.backends.rabbit) as jobs,
        client.sessions.watch(session, timeout=PATIENCE) as watched,
    ):
        await anext(watched)
        link.pause(Direction.TO_SERVER)
        async with client.turns.stream(session.session_id, QUESTION, timeout=PATIENCE) as stream:
            accepted = await until_event(stream, "accepted")
            assert not accepted.accepted.turn.durable
            await stack.kill9("session")
            await link.cut()
            link.resume(Direction.TO_SERVER)
            assert jobs == []
            await stack.start("session")
            outcome = await stream.result()
        told = await about_turn(watched, stream.turn_id)
    assert told == ["turn_accepted", "turn_started", "turn_ended"]
    assert watched.connects > 1
    assert outcome.state == TURN_STATE_COMPLETED
    assert (outcome.text, outcome.attempts) == (ANSWER, 1)
    assert stack.calls().count(stream.turn_id) == 1
    assert (await archived_turn(stack, stream.turn_id))["state"] == "COMPLETED"
    await one_answer(client, session.session_id, QUESTION, ANSWER)


async def test_a_job_whose_confirm_is_late_is_published_again_and_the_model_called_once(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    link = stack.bus["session"]
    question = scripted(text=ANSWER, delay=0.3)
    await stack.start("agents", replica=2)
    await wait_until(lambda: workers_listen(stack, 2), PATIENCE)
    stack.freeze("agents")
    stack.freeze("agents", replica=2)
    async with published_jobs(stack.backends.rabbit) as jobs:
        link.pause(Direction.TO_CLIENT)
        turn = await client.turns.begin(session.session_id, question)
        assert not turn.durable
        # One at once, then one after each wait for a confirm; the broker shares them out.
        await wait_until(lambda: len(jobs) >= 3, PATIENCE)
        assert {job.turn_id for job in jobs} == {turn.turn_id}
        stack.thaw("agents")
        stack.thaw("agents", replica=2)
        link.resume(Direction.TO_CLIENT)
        outcome = await client.turns.watch(turn.turn_id, timeout=PATIENCE).result()
    assert (outcome.text, outcome.attempts) == (ANSWER, 1)
    await archived_turn(stack, turn.turn_id)
    # A copy that is still under way would be taken before this one.
    following = await client.turns.stream(session.session_id, QUESTION, timeout=PATIENCE).result()
    assert following.state == TURN_STATE_COMPLETED
    assert stack.calls().count(turn.turn_id) == 1


async def test_one_request_id_sent_twice_at_once_is_one_turn_with_one_stream(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    async with stack.client() as other:
        streams = [
            each.turns.stream(session.session_id, QUESTION, request_id="the-same", timeout=PATIENCE)
            for each in (client, other)
        ]
        first, second = await asyncio.gather(*map(all_frames, streams))
    assert kinds(first)[0] == "accepted"
    assert kinds(first)[-1] == "outcome"
    # Whether the broker had confirmed it when the turn was accepted may differ, and how many words
    # that wait are put together.
    assert but_deltas(first[1:]) == but_deltas(second[1:])
    assert said(first[:-1]) == said(second[:-1]) == ANSWER
    assert streams[0].turn_id == streams[1].turn_id
    assert stack.calls().count(streams[0].turn_id) == 1
    await one_answer(client, session.session_id, QUESTION, ANSWER)


async def test_one_request_id_with_another_text_is_refused_while_it_runs_and_afterwards(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    async def refused() -> AlreadyExists:
        with pytest.raises(AlreadyExists) as caught:
            await client.turns.begin(session.session_id, "another", request_id="taken")
        return caught.value

    stream = client.turns.stream(session.session_id, QUESTION, request_id="taken", timeout=PATIENCE)
    async with stream:
        await until_event(stream, "accepted")
        assert (await refused()).reason == "REQUEST_ID_TAKEN"
        await stream.result()
    await archived_turn(stack, stream.turn_id)
    await refused()
    again = await client.turns.begin(session.session_id, QUESTION, request_id="taken")
    assert again.turn_id == stream.turn_id
    assert stack.calls().count(stream.turn_id) == 1
    await one_answer(client, session.session_id, QUESTION, ANSWER)


async def workers_listen(stack: RealStack, number: int) -> bool:
    async with await aio_pika.connect(stack.backends.rabbit.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("turns.interactive.v1", passive=True)
        return queue.declaration_result.consumer_count == number


def but_deltas(frames: Sequence[TurnFrame]) -> list[TurnFrame]:
    return [frame for frame in frames if not frame.HasField("delta")]


async def all_frames(stream: TurnStream) -> list[TurnFrame]:
    async with stream:
        return [frame async for frame in stream]
