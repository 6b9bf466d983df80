"""What a search costs in each way: processor time of this process, time, and memory."""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles

import psutil

from bench.retrieval.site import Site
from bench.retrieval.ways import WAYS, Search, Way, naive, shared, unbounded

CALLERS = (1, 30, 100)
SEARCHES: Mapping[int, int] = {1: 100, 30: 300, 100: 500}
NAIVE_SHARE = 0.2
"""Of these searches: it takes ten times as long."""
HELD = 30
"""Handles that are open at once while memory is looked at."""
HOLD_SECONDS = 3.0


@dataclass(slots=True, kw_only=True)
class Cost:
    """Of one way at one number of callers."""

    processor: list[float] = field(default_factory=list)
    """Milliseconds a search, of each round."""
    seconds: list[float] = field(default_factory=list)
    """Of each search."""

    @property
    def cpu_ms(self) -> float:
        """The median of the rounds."""
        return median(self.processor)

    @property
    def p50_ms(self) -> float:
        """Half of the searches took longer."""
        return median(self.seconds) * 1000

    @property
    def p99_ms(self) -> float:
        """One of a hundred searches took longer."""
        return quantiles(self.seconds, n=100)[98] * 1000


async def costs(
    site: Site, rounds: int, share: float, say: Callable[[str], None]
) -> dict[tuple[str, int], Cost]:
    """Measure every way at every number of callers, in rounds that alternate between the ways."""
    await site.follow([])
    measured = {(name, callers): Cost() for callers in CALLERS for name in WAYS}
    for number in range(rounds):
        for (name, callers), cost in measured.items():
            say(f"round {number + 1} of {rounds}: {name}, {callers} at once")
            searches = int(SEARCHES[callers] * share * (NAIVE_SHARE if name == "naive" else 1))
            await _round(site, WAYS[name], callers, max(searches, callers), cost)
    return measured


async def _round(site: Site, way: Way, callers: int, searches: int, cost: Cost) -> None:
    gc.collect()
    async with way(site) as search:
        await asyncio.gather(*(search(number) for number in range(min(callers, 10))))
        began = time.process_time()
        await asyncio.gather(
            *(_caller(search, range(first, searches, callers), cost) for first in range(callers))
        )
    # What is closed, or made for later, belongs to it.
    cost.processor.append((time.process_time() - began) / searches * 1000)


async def _caller(search: Search, numbers: range, cost: Cost) -> None:
    for number in numbers:
        began = time.perf_counter()
        await search(number)
        cost.seconds.append(time.perf_counter() - began)


async def memory(site: Site) -> dict[str, float]:
    """Return the MiB of each of many handles while all wait for their answers."""
    ways = {"ours": unbounded, "shared": shared, "naive": naive}
    return {name: await _held(site, way) for name, way in ways.items()}


async def _held(site: Site, way: Way) -> float:
    async with way(site) as search:
        await site.follow([])
        await search(0)
        await site.follow([{"path": "/query", "delay": HOLD_SECONDS}])
        gc.collect()
        before = most = _resident()
        searches = asyncio.gather(*(search(number) for number in range(HELD)))
        while not searches.done():
            await asyncio.sleep(HOLD_SECONDS / 20)
            most = max(most, _resident())
        await searches
    return (most - before) / HELD / 2**20


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
