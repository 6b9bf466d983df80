"""`python -m bench`: what a turn costs and how many go at once, on this machine.

`--quick` measures one round instead of three; `--phase` names what to measure. Neither overwrites
the figures of a full run.
"""

import argparse
import asyncio
import sys

import uvloop
from rich.console import Console
from rich.table import Table

from bench.turns import PHASES, RESULT, Plan, measure, write
from services.runtime.lifecycle import collecting_rarely


def main() -> int:
    """Measure, print a table, and write the figures of a full run."""
    options = _options()
    phases = tuple(options.phase or PHASES)
    plan = Plan(phases=phases, rounds=1, share=0.5) if options.quick else Plan(phases=phases)
    console = Console()
    with collecting_rarely(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(
            measure(plan, lambda what: console.print(f"measuring: {what}", style="dim"))
        )
    table = Table("figure", f"median of {plan.rounds}")
    for name, value in figures.items():
        table.add_row(name, str(value))
    console.print(table)
    console.print("Redis: appendonly, appendfsync everysec. RabbitMQ: quorum queues, one node.")
    if not options.quick and phases == PHASES:
        write(figures)
        console.print(f"written to {RESULT}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--phase", action="append", choices=PHASES, help="only this; repeatable")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
