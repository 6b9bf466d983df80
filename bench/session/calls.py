"""Reads and updates of sessions, and beside them what redis-py alone does in the store."""

import time
from asyncio import gather
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

from redis.asyncio import BlockingConnectionPool, Redis

from bench.load import median, percentile
from bench.processor import ProcessorTime
from bench.session.target import Caller, Target, calling
from maieutic.v1 import session_service_pb2 as pb

MOST_CALLERS = 128
LIMIT_SECONDS = 10.0
METADATA = {"course": "logic 101", "source": "bench", "locale": "en-GB"}

Operation = Callable[[int], Awaitable[None]]
"""One call of the caller with that number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is called, and how often it is measured."""

    operation: str
    """`get`, `update`, `contended` by the service; `raw_get`, `raw_update` in the store itself."""
    callers: int
    rounds: int
    seconds: float
    """Of each round; one more, the first, is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Medians of the rounds."""

    per_second: float
    p50_ms: float
    p99_ms: float
    processor_us: float
    """Processor time of the session service for one call, over all rounds."""


async def measure_calls(target: Target, load: Load) -> Rate:
    """Let each caller make one call after the other."""
    if load.operation.startswith("raw"):
        pool = BlockingConnectionPool.from_url(target.redis_url, max_connections=MOST_CALLERS)
        async with Redis(connection_pool=pool) as redis:
            return await _measured(target, load, await _raw(redis, load))
    async with calling(target) as caller:
        return await _measured(target, load, await _of_service(caller, load))


async def _measured(target: Target, load: Load, operation: Operation) -> Rate:
    await _round(operation, load)
    processor = ProcessorTime(target.processes)
    rounds = [await _round(operation, load) for _ in range(load.rounds)]
    calls = sum(map(len, rounds))
    return Rate(
        per_second=median([len(took) / load.seconds for took in rounds]),
        p50_ms=median([percentile(took, 0.5) * 1000 for took in rounds]),
        p99_ms=median([percentile(took, 0.99) * 1000 for took in rounds]),
        processor_us=round(processor.used()["session"] * 1_000_000 / calls, 1),
    )


async def _round(operation: Operation, load: Load) -> Sequence[float]:
    """Return the seconds that each call took; the last ones of a round may end after it."""
    took: list[float] = []
    until = time.perf_counter() + load.seconds

    async def calls(number: int) -> None:
        while (began := time.perf_counter()) < until:
            await operation(number)
            took.append(time.perf_counter() - began)

    await gather(*map(calls, range(load.callers)))
    return took


async def _of_service(caller: Caller, load: Load) -> Operation:
    sessions = await gather(*(_new_session(caller) for _ in range(load.callers)))
    if load.operation == "get":

        async def get(number: int) -> None:
            await caller.sessions.GetSession(
                pb.GetSessionRequest(session_id=sessions[number]),
                metadata=caller.as_gateway,
                timeout=LIMIT_SECONDS,
            )

        return get
    numbers = count()

    async def update(number: int) -> None:
        request = pb.UpdateSessionRequest(
            session_id=sessions[0 if load.operation == "contended" else number],
            request_id=uuid4().hex,
            title=f"Title {next(numbers)}",
        )
        request.update_mask.paths.append("title")
        await caller.sessions.UpdateSession(
            request, metadata=caller.as_gateway, timeout=LIMIT_SECONDS
        )

    return update


async def _new_session(caller: Caller) -> str:
    request = pb.CreateSessionRequest(request_id=uuid4().hex, title="New", metadata=METADATA)
    created = await caller.sessions.CreateSession(request, metadata=caller.as_gateway)
    return created.session.session_id


async def _raw(redis: Redis, load: Load) -> Operation:
    """Return what the service is measured against: values of the same size, nothing around."""
    keys = [f"bench:{number}" for number in range(load.callers)]
    value = pb.Session(title="New", session_id="s" * 48, metadata=METADATA).SerializeToString()
    for key in keys:
        await redis.set(key, value)
    if load.operation == "raw_get":

        async def get(number: int) -> None:
            await redis.get(keys[number])

        return get

    async def update(number: int) -> None:
        async with redis.pipeline(transaction=True) as pipeline:
            await pipeline.watch(keys[number])
            await pipeline.get(keys[number])
            pipeline.multi()  # type: ignore[no-untyped-call]
            pipeline.set(keys[number], value)
            await pipeline.execute()

    return update
