"""`python -m bench.embedded`: turns a second through the embedded backend, one process for all."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import Run, median, script, steady
from services.demo.backend import Backend

ROUNDS = 3
LOADS = {1: 60, 32: 320}
"""Clients at once to turns a round."""


async def measure() -> dict[int, list[Run]]:
    """Return the counted rounds of each load; one more, the first, warms up."""
    with tempfile.TemporaryDirectory(prefix="maieutic-bench-") as home:
        backend = Backend(Path(home), dict(os.environ), model="scripted")
        await backend.start()
        try:
            async with backend.client() as client:
                return {
                    clients: [
                        await steady(client, clients=clients, turns=turns, question=script())
                        for _ in range(ROUNDS + 1)
                    ][1:]
                    for clients, turns in LOADS.items()
                }
        finally:
            await backend.stop()


def main() -> int:
    """Measure and print a table."""
    table = Table("clients", "turns/s", "p50 ms", "p99 ms")
    for clients, runs in asyncio.run(measure()).items():
        figures = (
            median([run.per_second for run in runs]),
            median([run.whole_ms(0.5) for run in runs]),
            median([run.whole_ms(0.99) for run in runs]),
        )
        table.add_row(str(clients), *map(str, figures))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
