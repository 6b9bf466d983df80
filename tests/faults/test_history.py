"""What was said outlives Redis, and many writers of one session."""

import asyncio

import pytest
from redis.asyncio import Redis

from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnOutcome
from maieutic_client import Maieutic, SessionBusy
from services.session.adapters.keys import record_key
from tests.faults.steps import PATIENCE, archived_turn, conversation, scripted
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

TURNS = 10
FACT = 'the cellar door is green {"script": {"text": "so it is", "chunks": 1}}'
QUESTION = 'which colour? {"script": {"text": "green", "chunks": 1}}'


async def test_a_session_that_has_expired_has_its_history_and_the_next_turn_sees_it(
    stack: RealStack, client: Maieutic
) -> None:
    await stack.replace("session", idle="1")
    session = await client.sessions.create(title="a cellar")
    first = await client.turns.stream(session.session_id, FACT, timeout=PATIENCE).result()
    assert first.state == TURN_STATE_COMPLETED
    await wait_until(lambda: has_left(stack, session.session_id), PATIENCE, every=0.1)

    assert [m.text for m in await conversation(client, session.session_id)] == [FACT, "so it is"]
    async with client.turns.stream(session.session_id, QUESTION, timeout=PATIENCE) as stream:
        second = await stream.result()
    assert (second.state, second.text) == (TURN_STATE_COMPLETED, "green")
    # The scripted model counts the words of all that it was given.
    told = (FACT, "so it is", QUESTION)
    assert second.usage[0].input_tokens == sum(len(text.split()) for text in told)
    await archived_turn(stack, stream.turn_id)
    messages = await conversation(client, session.session_id)
    assert [m.text for m in messages] == [FACT, "so it is", QUESTION, "green"]
    assert [m.position for m in messages] == [1, 2, 3, 4]


async def test_a_conversation_goes_on_over_a_restart_and_a_kill_of_the_session_service(
    stack: RealStack, session: Session
) -> None:
    """Each turn is asked by a client of its own; the last one asks what was said."""
    topics = ["How is rye bread baked?", "What is a fjord?"]
    await stack.replace("agents", model_kind="offline", model_word_delay="0")
    for topic, end in zip(topics, (stack.stop, stack.kill9), strict=True):
        async with stack.client() as client:
            await client.turns.stream(session, topic, timeout=PATIENCE).result()
        await end("session")
        await stack.start("session")
    async with stack.client() as client:
        asked = client.turns.stream(session, "Summarise what we discussed.", timeout=PATIENCE)
        summary = await asked.result()
        assert summary.state == TURN_STATE_COMPLETED
        assert all(topic in summary.text for topic in topics)
        assert len(await conversation(client, session.session_id)) == 6


async def test_a_redis_that_is_killed_and_comes_back_loses_nothing_that_was_accepted(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    answer = " ".join(map(str, range(20)))
    question = scripted(text=answer, delay=0.1)
    async with client.turns.stream(session.session_id, question, timeout=PATIENCE) as stream:
        async for frame in stream:
            if frame.HasField("delta"):
                break
        await stack.backends.redis.kill9()
        await stack.backends.redis.start()
        outcome = await stream.result()
    assert (outcome.state, outcome.text) == (TURN_STATE_COMPLETED, answer)
    assert (await archived_turn(stack, stream.turn_id))["state"] == "COMPLETED"
    messages = await conversation(client, session.session_id)
    assert [m.text for m in messages] == [question, answer]


async def test_two_writers_of_one_session_at_two_replicas_lose_nothing(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    await stack.start("session", replica=2)
    async with stack.client() as other:
        await asyncio.gather(
            write(client, session.session_id, "ann"), write(other, session.session_id, "bob")
        )
    messages = await conversation(client, session.session_id)
    assert [m.position for m in messages] == list(range(1, 4 * TURNS + 1))
    questions, answers = messages[::2], messages[1::2]
    assert {m.author for m in questions} == {AUTHOR_USER}
    assert {m.author for m in answers} == {AUTHOR_AGENT}
    assert [m.turn_id for m in questions] == [m.turn_id for m in answers]
    for question, answer in zip(questions, answers, strict=True):
        assert question.text == said_by(answer.text)
    for writer in ("ann", "bob"):
        own = [m.text for m in answers if m.text.startswith(writer)]
        assert own == [f"{writer} {number}" for number in range(TURNS)]


async def write(client: Maieutic, session_id: str, writer: str) -> None:
    """Hold ten turns, each as soon as the session is free."""
    for number in range(TURNS):
        text = said_by(f"{writer} {number}")
        while (outcome := await answered(client, session_id, text)) is None:
            await asyncio.sleep(0.01)
        assert outcome.state == TURN_STATE_COMPLETED


async def answered(client: Maieutic, session_id: str, text: str) -> TurnOutcome | None:
    try:
        return await client.turns.stream(session_id, text, timeout=PATIENCE).result()
    except SessionBusy:
        return None


def said_by(answer: str) -> str:
    return scripted(text=answer, chunks=1)


async def has_left(stack: RealStack, session_id: str) -> bool:
    async with Redis.from_url(stack.backends.redis.url) as redis:
        return not await redis.exists(record_key(session_id))
