"""Searches as they were in the field, while two of five requests are spoilt."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bench.retrieval.site import Site
from bench.retrieval.ways import Search, Way, ours, shared

FAULTS: Sequence[dict[str, str | int | float]] = (
    {"fault": "close"},
    {"fault": "reset"},
    {"fault": "status", "status": 429, "retry_after": 0.1},
    {"fault": "status", "status": 503},
)
SPOILT = 0.4
PACED, PACED_SECONDS = 300, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of some searches."""

    name: str
    searches: int
    failures: int
    requests: int
    most: int
    """Requests of one search."""
    spoilt: float
    """Share of the requests."""


def spoiling(seed: int) -> list[dict[str, str | int | float]]:
    """Return rules that spoil two of five requests, by each fault as often."""
    # A rule gets only what those before it have left.
    share = SPOILT / len(FAULTS)
    return [
        {**fault, "share": share / (1 - n * share), "seed": seed + n, "path": "/query"}
        for n, fault in enumerate(FAULTS)
    ]


async def trials(site: Site, paced_seconds: float) -> list[Trial]:
    """Search 30 at once, 100 at once and 300 one after the other, by us and by one client."""
    return [
        await _trial(site, way, searches, seconds)
        for searches, seconds in ((30, 0.0), (100, 0.0), (PACED, paced_seconds))
        for way in (ours, shared)
    ]


async def _trial(site: Site, way: Way, searches: int, seconds: float) -> Trial:
    await site.follow(spoiling(searches))
    async with way(site) as search:
        ends = await asyncio.gather(
            *(_later(search, number, number * seconds / searches) for number in range(searches)),
            return_exceptions=True,
        )
    log = await site.requests()
    name = f"{searches} {f'in {seconds:g} s' if seconds else 'at once'}, {way.__name__}"
    return Trial(
        name=name,
        searches=searches,
        failures=sum(isinstance(end, BaseException) for end in ends),
        requests=len(log),
        most=max(one["copy"] for one in log) + 1,
        spoilt=sum(one["end"] != "200" for one in log) / len(log),
    )


async def _later(search: Search, number: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await search(number)
