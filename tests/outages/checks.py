"""What must hold after an outage, whatever it was: none lost, none doubled, none stuck."""

import asyncio
from collections import Counter, defaultdict

import aio_pika
from redis.asyncio import Redis

from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnState
from maieutic_client import Aborted, Maieutic, MaieuticError, ResourceExhausted, Unavailable
from services.runtime.topology import maieutic_topology
from tests.outages.load import PATIENCE, Asked, Load
from tests.stack import RealStack
from tests.waiting import wait_until

AT_ONCE = 32


async def all_is_well(stack: RealStack, load: Load, *, lost_attempts: int = 0) -> None:
    """Assert all that is promised of a load that an outage has hit.

    *lost_attempts* is how many model calls of a turn may have been forgotten with a store.
    """
    nothing_unexpected(stack)
    refused_clearly(load)
    never_forgotten(load)
    assert [asked.outcome.text for asked in load.asked if asked.outcome] == [
        asked.answer for asked in load.asked
    ]
    await nothing_is_left(stack)
    await archived_once(stack, load, lost_attempts)
    async with stack.client() as client:
        await told_again(client, load)
        await told_in_order(client, load)


def nothing_unexpected(stack: RealStack) -> None:
    """Assert that an outage is told in lines, not in tracebacks as a bug is."""
    surprised = [name for name, text in stack.logs() if "Traceback" in text]
    assert surprised == []


def refused_clearly(load: Load) -> None:
    """Assert that callers were told what is wrong, and when to ask again."""
    unclear = [error for error in load.failures if not _is_clear(error)]
    assert unclear == [], Counter(f"{type(error).__name__}: {error}" for error in unclear)


def _is_clear(error: MaieuticError) -> bool:
    kind = isinstance(error, Unavailable | ResourceExhausted | Aborted)
    return kind and error.retry_after is not None and bool(error.reason)


def never_forgotten(load: Load) -> None:
    """Assert that no turn was denied that had been answered as durable."""
    denied = [asked.turn_id for asked in load.asked if asked.durable and asked.forgotten]
    assert denied == []


async def nothing_is_left(stack: RealStack) -> None:
    """Assert that no work is left anywhere, and no message was given up."""

    async def clock_is_empty() -> bool:
        return await _due(stack) == {}

    await wait_until(clock_is_empty, PATIENCE, every=0.1)

    async def queues_are_empty() -> bool:
        left = await _messages(stack)
        assert left["dead.v1"] == 0
        assert await stack.rows("SELECT reason FROM dead_letters") == []
        return not any(left.values())

    await wait_until(queues_are_empty, PATIENCE, every=0.1)


async def _due(stack: RealStack) -> dict[str, int]:
    async with Redis.from_url(stack.backends.redis.url) as redis:
        shards = [key async for key in redis.scan_iter("{*}:due")]
        return {str(key): await redis.zcard(key) for key in shards}


async def _messages(stack: RealStack) -> dict[str, int]:
    async with await aio_pika.connect(stack.backends.rabbit.url) as connection:
        channel = await connection.channel()
        found = {}
        for queue in maieutic_topology().queues:
            declared = await channel.declare_queue(queue.name, passive=True)
            found[queue.name] = declared.declaration_result.message_count or 0
        return found


async def archived_once(stack: RealStack, load: Load, lost_attempts: int) -> None:
    """Assert one row a turn, with its outcome, and no more model calls than attempts."""
    # On the lane beside it, long conversations are summed up, which nobody has asked for.
    query = """
    SELECT turn_id, state, attempts FROM turns
    WHERE session_id = ANY($1) AND lane = 'interactive'
    """
    rows = {row["turn_id"]: row for row in await stack.rows(query, load.sessions)}
    assert {asked.turn_id for asked in load.asked} == rows.keys()
    assert len({asked.turn_id for asked in load.asked}) == len(load.asked)
    told = {
        asked.turn_id: TurnState.Name(asked.outcome.state).removeprefix("TURN_STATE_")
        for asked in load.asked
        if asked.outcome
    }
    assert {turn_id: row["state"] for turn_id, row in rows.items()} == told
    assert set(told.values()) == {"COMPLETED"}
    calls = Counter(stack.calls())
    often = {
        turn_id: (calls[turn_id], row["attempts"])
        for turn_id, row in rows.items()
        if not 1 <= calls[turn_id] <= row["attempts"] + lost_attempts
    }
    assert often == {}


async def told_again(client: Maieutic, load: Load) -> None:
    """Assert that the whole stream, and the request id, lead to the same one outcome.

    Of every turn that a call failed for, and of some others.
    """
    places = asyncio.Semaphore(AT_ONCE)

    async def one(asked: Asked) -> None:
        async with places:
            async with client.turns.watch(asked.turn_id, timeout=PATIENCE) as stream:
                outcomes = [f.outcome async for f in stream if f.HasField("outcome")]
            assert [(o.state, o.text) for o in outcomes] == [(TURN_STATE_COMPLETED, asked.answer)]
            same = await client.turns.begin(
                asked.session_id, asked.question, request_id=asked.request_id
            )
            assert (same.turn_id, same.outcome.text) == (asked.turn_id, asked.answer)

    chosen = [asked for n, asked in enumerate(load.asked) if asked.failures or n % 4 == 0]
    await asyncio.gather(*map(one, chosen))


async def told_in_order(client: Maieutic, load: Load) -> None:
    """Assert that each history is its questions with their answers, once and in their order."""
    said: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for asked in load.asked:
        said[asked.session_id] += [(AUTHOR_USER, asked.question), (AUTHOR_AGENT, asked.answer)]

    async def one(session_id: str) -> None:
        messages = [message async for message in client.sessions.messages(session_id)]
        assert [(m.author, m.text) for m in reversed(messages)] == said[session_id]

    await asyncio.gather(*map(one, load.sessions))
