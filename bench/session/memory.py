"""What a session takes in the store; in a process of its own."""

from collections.abc import Mapping

from redis.asyncio import Redis

from bench.session.conversing import Conversing
from bench.session.target import Target

QUESTION = "What does it mean that a function is pure?"
ANSWER = "What could change between two calls of it with the same arguments?"
TURNS = 10
"""Each leaves two messages."""


async def measure_memory(target: Target) -> Mapping[str, float]:
    """Return the bytes of a session of 20 short messages, all archived, by MEMORY USAGE."""
    async with Conversing.on(target) as conversing:
        session_id = await conversing.new_session()
        turn_ids = []
        for _ in range(TURNS):
            (held,) = await conversing.held_turns([session_id], QUESTION)
            await conversing.complete(held, last_seq=0, text=ANSWER)
            await conversing.archived(held)
            turn_ids.append(held.turn_id)
    async with Redis.from_url(target.redis_url) as redis:
        return {
            "session_bytes": await _memory(redis, f"*:s:{session_id}:*"),
            "session_turns_bytes": sum(
                [await _memory(redis, f"*:t:{turn_id}*") for turn_id in turn_ids]
            ),
        }


async def _memory(redis: Redis, pattern: str) -> int:
    """Return the bytes of all keys of that form."""
    keys = [key async for key in redis.scan_iter(pattern, count=10_000)]
    return sum([await redis.memory_usage(key, samples=0) or 0 for key in keys])
