"""`python -m bench.agents`: what the agents cost, and what they hold to under load and kills.

The five services as processes on real servers, with workers that call an emulator of Claude's API
through its own SDK. `--quick` is one round of each and a tenth of the kills; `--phase` names what
to measure. Neither overwrites the figures of a full run.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.agents.cancelling import measure_cancelling
from bench.agents.kills import TURNS, measure_kills
from bench.agents.socratic import measure_socratic
from bench.agents.turns import measure_burst, measure_connections
from services.runtime.lifecycle import collecting_rarely

RESULT = Path("build/bench/agents.json")
ROUNDS = 3
CANCELS = 5
QUESTIONS = 5
"""Few enough that the conversation is not summed up meanwhile, which would be a fourth call."""


def main() -> int:
    """Measure, print a table, and write the figures of a full run."""
    options = _options()
    console = Console()
    phases = _phases(quick=options.quick)
    figures: dict[str, float] = {}
    with collecting_rarely(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for name in options.phase or phases:
            console.print(f"measuring: {name}", style="dim")
            figures |= runner.run(_figures(phases[name]))
    table = Table("figure", "measured")
    for name, value in figures.items():
        table.add_row(name, str(value))
    console.print(table)
    if not options.quick and not options.phase:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(figures, indent=1) + "\n")
        console.print(f"written to {RESULT}")
    return 0


Phase = Callable[[], Awaitable[Mapping[str, float]]]


def _phases(*, quick: bool) -> Mapping[str, Phase]:
    """Return how each phase is measured, by its name."""
    return {
        "connections": measure_connections,
        "burst": lambda: measure_burst(1 if quick else ROUNDS),
        "socratic": lambda: measure_socratic(1 if quick else QUESTIONS),
        "kills": lambda: measure_kills(TURNS // 10 if quick else TURNS),
        "cancel": lambda: measure_cancelling(1 if quick else CANCELS),
    }


async def _figures(phase: Phase) -> Mapping[str, float]:
    return await phase()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.agents", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--phase", action="append", choices=_phases(quick=True), help="only this")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
