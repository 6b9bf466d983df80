"""`python -m bench`: what a turn costs and how many go at once, on this machine."""

import sys

from rich.console import Console
from rich.table import Table

from bench.turns import RESULT, ROUNDS, run


def main() -> int:
    """Measure, print a table and write the figures."""
    console = Console()
    figures = run(lambda what: console.print(f"measuring: {what}", style="dim"))
    table = Table("figure", f"median of {ROUNDS}")
    for name, value in figures.items():
        table.add_row(name, str(value))
    console.print(table)
    console.print(f"written to {RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
