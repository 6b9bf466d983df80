"""Many turns at once: what they hold of the archive's connections, and what a worker spends."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg

from bench.agents.site import Site, deployed
from bench.load import Run, burst, median, new_sessions

CHUNKS = 50
MODEL_SECONDS = 2.0
SLOW = {
    "text": " ".join(f"word{number}" for number in range(CHUNKS)),
    "first_delay": MODEL_SECONDS / CHUNKS,
    "delay": MODEL_SECONDS / CHUNKS,
}
"""A model that takes two seconds for fifty pieces."""
WORKERS = (1, 4, 8)
TURNS = 200
BURST = 1000
LOOK_SECONDS = 0.02


async def measure_connections() -> Mapping[str, float]:
    """Return the most connections to the archive by number of workers, and failed turns."""
    figures: dict[str, float] = {}
    failures, running = 0, 1
    async with deployed() as site:
        await site.claude.follow([SLOW])
        for workers in WORKERS:
            for replica in range(running + 1, workers + 1):
                await site.stack.start("agents", replica=replica)
            running = workers
            sessions = await new_sessions(site.client, TURNS)
            async with _watched(site) as peak:
                failures += (await _asked(site, sessions)).failures
            figures[f"pg_connections_peak_w{workers}"] = max(peak)
    return {
        "pg_connections_peak": max(figures.values()),
        **figures,
        "connections_failures": failures,
    }


async def measure_burst(rounds: int) -> Mapping[str, float]:
    """Return what a thousand turns at once take, of one worker."""
    runs, spent = list[Run](), list[float]()
    async with deployed() as site:
        await site.claude.follow([SLOW])
        processor = site.processor()
        for number in range(rounds + 1):
            sessions = await new_sessions(site.client, BURST)
            await processor.rest()
            processor.restart()
            run = await _asked(site, sessions)
            await processor.rest()  # what is left to do counts, too
            if number:  # the first one warms up
                runs.append(run)
                spent.append(processor.used()["agents"] * 1000 / BURST)
    return {
        "burst1000_failures": sum(run.failures for run in runs),
        "burst1000_wall_s": median([run.wall for run in runs]),
        "burst1000_p99_ms": median([run.whole_ms(0.99) for run in runs]),
        "worker_cpu_ms_turn": median(spent),
    }


async def _asked(site: Site, sessions: list[str]) -> Run:
    return await burst(site.client, sessions, question="What is the answer?")


@asynccontextmanager
async def _watched(site: Site) -> AsyncIterator[list[int]]:
    """Give the numbers of connections to the archive that are seen during the block."""
    seen = [0]
    connection = await asyncpg.connect(site.stack.backends.postgres.url)

    async def look() -> None:
        while True:
            seen.append(await connection.fetchval(_COUNT))
            await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        await asyncio.wait({looking})
        await connection.close()


_COUNT = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
