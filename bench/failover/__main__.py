"""`python -m bench.failover`: what callers see when a primary of the session store is killed.

The session service over gRPC, on a cluster of six nodes and on a primary with two replicas and
three Sentinels, while sessions are changed all the time. The primary is killed with `kill -9`, with
its replicas at its heels or standing still for a while before; once for each durability.
`--quick` does the first scene alone and writes no figures.
"""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.failover.sites import LOST_AFTER_SECONDS, SITES, Site, stopped
from bench.failover.writer import Writer
from services.session.settings import SessionSettings
from tests.session.stack import Stack, session_stack
from tests.waiting import wait_until

RESULT = Path("build/bench/failover.json")
WRITERS = 24
WARM_SECONDS = 2.0
BEHIND_SECONDS = 3.0
"""For so long the replicas stand still before the kill, if they do."""
AFTER_SECONDS = 2.0
PATIENCE_SECONDS = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is killed, and how."""

    site: str
    behind: bool
    """Whether the replicas lack the last seconds."""
    durability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What callers saw."""

    acknowledged: int
    lost: int
    not_replicated: int
    outage: float
    """Longest time without an answer to any one caller of the killed primary, in seconds."""
    outage_elsewhere: float | None
    """The same for callers of the other primaries, if there are any."""


async def play(scene: Scene) -> Seen:
    """Run the scene on servers of its own."""
    async with SITES[scene.site]() as site:
        defaults = SessionSettings(id_key="")
        async with session_stack(
            site.url,
            client=site.client(),
            durability=scene.durability,
            redis_timeout=defaults.redis_timeout,
            lease=defaults.lease,
            sweep_interval=defaults.sweep_interval,
        ) as stack:
            return await _play(scene, site, await _writers(stack))


async def _writers(stack: Stack) -> list[Writer]:
    user = stack.user()
    sessions = [await user.create() for _ in range(WRITERS)]
    return [Writer(user, session.session_id, session.revision) for session in sessions]


async def _play(scene: Scene, site: Site, writers: Sequence[Writer]) -> Seen:
    victim = await site.primary_of(writers[0].session_id)
    placed = [(writer, await site.primary_of(writer.session_id)) for writer in writers]
    struck = [writer for writer, server in placed if server is victim]
    spared = [writer for writer, server in placed if server is not victim]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for writer in writers:
            tasks.create_task(writer.run(stop))
        await asyncio.sleep(WARM_SECONDS)
        with stopped(await site.replicas_of(victim) if scene.behind else []):
            await asyncio.sleep(BEHIND_SECONDS if scene.behind else 0)
            for writer in writers:
                writer.watch()
            await victim.kill9()
        await site.restore(victim)
        await wait_until(lambda: all(writer.outage for writer in writers), PATIENCE_SECONDS)
        await asyncio.sleep(AFTER_SECONDS)
        stop.set()
    return Seen(
        acknowledged=sum(writer.acknowledged for writer in writers),
        lost=sum(writer.lost for writer in writers),
        not_replicated=sum(writer.not_replicated for writer in writers),
        outage=_longest(struck),
        outage_elsewhere=_longest(spared) if spared else None,
    )


def _longest(writers: Sequence[Writer]) -> float:
    return round(max(writer.outage for writer in writers), 1)


async def measure(scenes: Sequence[Scene], say: Callable[[str], None]) -> list[dict[str, object]]:
    """Play all scenes, one after the other; *say* is told of each."""
    rows: list[dict[str, object]] = []
    for scene in scenes:
        say(f"{scene.site}, replicas {'behind' if scene.behind else 'close'}, {scene.durability}")
        rows.append({**asdict(scene), **asdict(await play(scene))})
    return rows


def main() -> int:
    """Play, print a table, and write the figures of a full run."""
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first scene alone")
    quick = parser.parse_args().quick
    scenes = [
        Scene(site=site, behind=behind, durability=durability)
        for site, behind, durability in product(SITES, (False, True), ("primary", "replicated"))
    ]
    console = Console(width=110)
    logging.disable(logging.WARNING)  # the service's own words on what is done to it
    rows = asyncio.run(
        measure(scenes[:1] if quick else scenes, lambda what: console.print(what, style="dim"))
    )
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    console.print(
        f"A primary is given up after {LOST_AFTER_SECONDS:g} s: cluster-node-timeout, and "
        f"down-after-milliseconds. Behind: the replicas stand still {BEHIND_SECONDS:g} s before."
    )
    if not quick:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(rows, indent=1) + "\n")
        console.print(f"written to {RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
