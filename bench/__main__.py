"""`python -m bench`: turns a second through the embedded backend, with a model that costs nothing.

Load goes to this machine alone and is bounded in count. Figures are medians of the rounds; the
first round warms up and is not counted.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from maieutic_client import Maieutic
from services.demo.backend import Backend

ROUNDS = 3
LOADS = {1: 60, 32: 320, 128: 640}
"""Clients at once to turns a round."""
SCRIPT = json.dumps({"script": {"text": "one two three four five", "chunks": 5}})
RESULT = Path("build/bench/embedded.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round's figures."""

    turns_s: float
    p50_ms: float
    p99_ms: float
    first_frame_p50_ms: float


async def _turn(client: Maieutic, session_id: str) -> tuple[float, float]:
    started, first = time.monotonic(), 0.0
    async for frame in client.turns.stream(session_id, SCRIPT):
        if frame.HasField("delta") and not first:
            first = time.monotonic() - started
    return (time.monotonic() - started) * 1000, first * 1000


async def _client(client: Maieutic, turns: int) -> list[tuple[float, float]]:
    session = await client.sessions.create()
    return [await _turn(client, session.session_id) for _ in range(turns)]


async def _round(client: Maieutic, clients: int, turns: int) -> Round:
    started = time.monotonic()
    each = turns // clients
    done = await asyncio.gather(*(_client(client, each) for _ in range(clients)))
    seconds = time.monotonic() - started
    times = sorted(total for part in done for total, _ in part)
    firsts = [first for part in done for _, first in part]
    return Round(
        turns_s=len(times) / seconds,
        p50_ms=statistics.median(times),
        p99_ms=times[int(len(times) * 0.99)],
        first_frame_p50_ms=statistics.median(firsts),
    )


def _median(rounds: list[Round]) -> Round:
    columns = [asdict(r) for r in rounds]
    return Round(**{name: statistics.median(c[name] for c in columns) for name in columns[0]})


async def _measure() -> dict[int, Round]:
    environ = {**os.environ, "MAIEUTIC_MODEL_KIND": "scripted"}
    with tempfile.TemporaryDirectory(prefix="maieutic-bench-") as home:
        backend = Backend(Path(home), environ)
        await backend.start()
        try:
            async with backend.client() as client:
                return {load: await _load(client, load, turns) for load, turns in LOADS.items()}
        finally:
            await backend.stop()


async def _load(client: Maieutic, clients: int, turns: int) -> Round:
    rounds = [await _round(client, clients, turns) for _ in range(ROUNDS + 1)]
    return _median(rounds[1:])


def main() -> int:
    """Measure, print a table and write the figures as one flat JSON object."""
    figures = asyncio.run(_measure())
    table = Table("clients", "turns/s", "p50 ms", "p99 ms", "first frame p50 ms")
    flat = {}
    for load, result in figures.items():
        values = asdict(result)
        table.add_row(str(load), *(f"{value:.1f}" for value in values.values()))
        flat.update({f"{name}_c{load}": round(value, 2) for name, value in values.items()})
    Console().print(table)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(flat, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
