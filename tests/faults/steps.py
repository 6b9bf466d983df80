"""What the fault tests do and look at again and again."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import aio_pika
from redis.asyncio import Redis

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import TurnRecord
from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER, Message
from maieutic.v1.turn_service_pb2 import TurnFrame
from maieutic_client import Maieutic, SessionStream, TurnStream
from services.session.adapters.codec import decode
from services.session.adapters.keys import turn_key
from tests.backends.rabbitmq import RabbitNode
from tests.stack import RealStack
from tests.waiting import wait_until

PATIENCE = 90.0
"""Seconds for what must happen; nothing is asserted about how long it takes."""
HANGING: Mapping[str, object] = MappingProxyType({"fail": "hang", "fail_after": 3, "fail_times": 1})
"""The script of a model whose first call of a turn says three words and does not end."""


def scripted(**script: object) -> str:
    """Return a question that tells the scripted model how to answer."""
    return json.dumps({"script": script})


async def until_event(stream: TurnStream, kind: str) -> TurnFrame:
    """Read up to the next frame of a kind."""
    async for frame in stream:
        if frame.WhichOneof("event") == kind:
            return frame
    raise AssertionError(f"the stream ended without {kind}")


async def about_turn(stream: SessionStream, turn_id: str) -> list[str | None]:
    """Read up to the end of a turn, and return what was told of it."""
    told: list[str | None] = []
    async for frame in stream:
        if frame.turn_id == turn_id:
            told.append(frame.WhichOneof("event"))
        if told[-1:] == ["turn_ended"]:
            return told
    raise AssertionError("the session was deleted before the turn ended")


async def frames_of(client: Maieutic, turn_id: str) -> list[TurnFrame]:
    """Return the whole stream of a turn, watched from its start."""
    async with client.turns.watch(turn_id, timeout=PATIENCE) as stream:
        return [frame async for frame in stream]


def kinds(frames: Sequence[TurnFrame]) -> list[str | None]:
    return [frame.WhichOneof("event") for frame in frames]


def said(frames: Sequence[TurnFrame]) -> str:
    """Return what a reader has in front of them before the outcome tells."""
    text = ""
    for frame in frames:
        if frame.HasField("started"):
            text = ""
        text = frame.snapshot.text or frame.gap.text or text + frame.delta.text
    return text


async def archived_turn(stack: RealStack, turn_id: str) -> dict[str, Any]:
    """Wait for the turn's outcome in PostgreSQL, and return its only row."""
    query = "SELECT state, attempts, reason FROM turns WHERE turn_id = $1"

    async def ended() -> bool:
        rows = await stack.rows(query, turn_id)
        return bool(rows) and rows[0]["state"] != "ACCEPTED"

    await wait_until(ended, PATIENCE, every=0.05)
    (row,) = await stack.rows(query, turn_id)
    return row


async def live_turn(stack: RealStack, turn_id: str) -> TurnRecord:
    async with Redis.from_url(stack.backends.redis.url) as redis:
        raw = await redis.get(turn_key(turn_id))
    assert isinstance(raw, bytes)
    return decode(TurnRecord, raw)


async def archived_texts(stack: RealStack, session_id: str) -> list[str]:
    query = "SELECT text FROM messages WHERE session_id = $1 ORDER BY position"
    return [row["text"] for row in await stack.rows(query, session_id)]


async def conversation(client: Maieutic, session_id: str) -> list[Message]:
    """Return all messages, oldest first."""
    return [message async for message in client.sessions.messages(session_id, page_size=7)][::-1]


async def one_answer(client: Maieutic, session_id: str, question: str, answer: str) -> None:
    """Assert that the conversation is one question and one answer."""
    messages = await conversation(client, session_id)
    told = [(message.author, message.text) for message in messages]
    assert told == [(AUTHOR_USER, question), (AUTHOR_AGENT, answer)]


@asynccontextmanager
async def published_jobs(rabbit: RabbitNode) -> AsyncIterator[list[RunTurn]]:
    """Give a list to which a copy of each job is added that reaches the broker."""
    jobs: list[RunTurn] = []

    async def copy(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        jobs.append(RunTurn.FromString(message.body))

    async with await aio_pika.connect(rabbit.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for key in ("interactive", "suspect"):
            await queue.bind("turns", key)
        await queue.consume(copy, no_ack=True)
        yield jobs
