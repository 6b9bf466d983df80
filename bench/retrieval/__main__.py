"""`python -m bench.retrieval`: what a search costs, and what faults do to those at Pinecone.

The emulator of Pinecone is a process of its own and speaks TLS; processor time is that of this
process, the client. `--quick` is short and writes no figures.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence

import uvloop
from rich.console import Console
from rich.table import Table

from bench.retrieval import local, quality, storage
from bench.retrieval.cost import CALLERS, Cost, costs, memory
from bench.retrieval.field import PACED_SECONDS, Trial, trials
from bench.retrieval.site import running_site
from bench.retrieval.ways import WAYS
from services.retrieval.settings import RetrievalSettings
from services.runtime.lifecycle import collecting_rarely

ROUNDS = 3
QUICK_SHARE, QUICK_SECONDS = 0.2, 3.0


async def measure(console: Console, *, quick: bool) -> dict[str, float]:
    """Measure all, print tables, and return the figures."""
    rounds, share = (1, QUICK_SHARE) if quick else (ROUNDS, 1.0)
    async with running_site() as site:
        held = await memory(site)
        measured = await costs(site, rounds, share, lambda what: console.print(what, style="dim"))
        tried = await trials(site, QUICK_SECONDS if quick else PACED_SECONDS)
    console.print(_costs(measured))
    console.print("MiB a handle: " + ", ".join(f"{way} {mib:.2f}" for way, mib in held.items()))
    console.print(_trials(tried))
    figures = {
        **_ratios(measured),
        "failures_under_faults": sum(one.failures for one in tried if one.name.endswith("ours")),
        "requests_a_search_under_faults": max(one.requests / one.searches for one in tried),
        **{f"mib_a_handle_{way}": mib for way, mib in held.items()},
    }
    return {name: round(value, 3) for name, value in figures.items()}


async def recall() -> float:
    """Return the recall@5 of the service's default."""
    rows = await quality.measure(quality.Collection(), [RetrievalSettings().embedder])
    return round(rows[-1].quality.recall(5), 4)


async def storage_ratio(users: int) -> float:
    """Return what many users with many chats store, against a copy for each chat."""
    alone, all_ = await storage.measure(users)
    return round(all_.bytes / (alone.bytes * users * storage.CHATS), 6)


def _ratios(measured: Mapping[tuple[str, int], Cost]) -> dict[str, float]:
    def cpu(way: str, callers: int) -> float:
        return measured[way, callers].cpu_ms

    return {
        "cpu_ratio_to_shared_c30": cpu("ours", 30) / cpu("shared", 30),
        "cpu_ratio_to_shared_c100": cpu("ours", 100) / cpu("shared", 100),
        "cpu_extra_ms_c1": cpu("ours", 1) - cpu("shared", 1),
        "naive_cpu_ratio_c30": cpu("naive", 30) / cpu("ours", 30),
        "connected_ahead_cpu_ratio_c30": cpu("connected ahead", 30) / cpu("ours", 30),
        "connected_ahead_p50_ratio_c1": (
            measured["connected ahead", 1].p50_ms / measured["ours", 1].p50_ms
        ),
    }


def _costs(measured: Mapping[tuple[str, int], Cost]) -> Table:
    table = Table("a search", *(f"{way}\nCPU ms, p50, p99" for way in WAYS))
    for callers in CALLERS:
        row = [measured[way, callers] for way in WAYS]
        cells = [f"{one.cpu_ms:.2f}  {one.p50_ms:.1f}  {one.p99_ms:.1f}" for one in row]
        table.add_row(f"{callers} at once", *cells)
    return table


def _trials(tried: Sequence[Trial]) -> Table:
    table = Table("under faults", "failures", "requests a search", "at most", "spoilt")
    for one in tried:
        a_search = f"{one.requests / one.searches:.2f}"
        table.add_row(one.name, str(one.failures), a_search, str(one.most), f"{one.spoilt:.0%}")
    return table


def main() -> int:
    """Measure, print tables, and write the figures of a full run."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, the faults fast")
    quick = parser.parse_args().quick
    console = Console(width=120)
    logging.disable(logging.WARNING)  # the service's own words on what is done to it
    with collecting_rarely(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(console, quick=quick))
    figures |= asyncio.run(local.measured())
    figures["storage_ratio"] = asyncio.run(storage_ratio(storage.USERS // (10 if quick else 1)))
    figures["recall_at_5"] = asyncio.run(recall())
    for name, value in figures.items():
        console.print(f"{name}: {value}")
    if not quick:
        quality.write(figures)
        console.print(f"written to {quality.RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
