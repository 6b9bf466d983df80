"""`python -m bench.session`: what reads, updates and events cost the session service.

One process of the service on a real Valkey, broker and archive; the load comes from another one.
`--quick` measures one short round; `--phase` names what to measure. Neither overwrites the figures
of a full run.
"""

import argparse
import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.session.calls import Load, Rate, measure_calls
from bench.session.elsewhere import elsewhere
from bench.session.events import measure_events
from bench.session.memory import measure_memory
from bench.session.target import Target
from tests.backends.postgres import postgres
from tests.backends.rabbitmq import rabbitmq
from tests.backends.redis import valkey
from tests.stack import real_stack

RESULT = Path("build/bench/session.json")
PHASES = ("get", "update", "contended", "events", "memory")
CALLERS = (1, 32, 128)
CONTENDERS = 32
CLOSE_LOOK = 32
"""Callers at which the ratio and the processor time are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how thoroughly."""

    phases: Sequence[str] = PHASES
    rounds: int = 3
    seconds: float = 2.0
    """Of each round."""
    events_seconds: float = 8.0


async def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, float]:
    """Return all figures by name; *say* is told how far it is."""
    async with _deployment() as target:
        bench = _Bench(target, plan)
        figures: dict[str, float] = {}
        for phase in plan.phases:
            say(phase)
            figures |= await bench.phase(phase)
        return figures


@asynccontextmanager
async def _deployment() -> AsyncIterator[Target]:
    """Run the session service and the archive, on servers set as in production."""
    name = f"bench_{secrets.token_hex(4)}"
    async with (
        rabbitmq() as rabbit,
        postgres() as database,
        valkey(append_only=True, fsync="everysec") as redis,
        real_stack(
            rabbit,
            database,
            redis=redis,
            services=("persistence", "session"),
            settings={
                "session": {"BUS_URL": rabbit.url},
                "persistence": {"BUS_URL": rabbit.url, "ARCHIVE_URL": database.url_of(name)},
            },
            database_name=name,
        ) as stack,
    ):
        yield Target(
            address=stack.address("session"),
            redis_url=redis.url,
            bus_url=rabbit.url,
            keys=stack.signing_keys,
            processes=stack.processes(),
        )


class _Bench:
    """Measures phase by phase, each with a load generator in a process of its own."""

    def __init__(self, target: Target, plan: Plan) -> None:
        self._target = target
        self._plan = plan

    async def phase(self, name: str) -> Mapping[str, float]:
        """Return the phase's figures."""
        if name == "events":
            return await elsewhere(measure_events, self._target, self._plan.events_seconds)
        if name == "memory":
            return await elsewhere(measure_memory, self._target)
        if name == "contended":
            rate = await self._rate("contended", CONTENDERS)
            return {
                "update_contended_s": rate.per_second,
                "update_contended_cpu_us": rate.processor_us,
            }
        figures: dict[str, float] = {}
        for callers in CALLERS:
            figures |= await self._beside_raw(name, callers)
        return figures

    async def _beside_raw(self, operation: str, callers: int) -> Mapping[str, float]:
        raw = await self._rate(f"raw_{operation}", callers)
        ours = await self._rate(operation, callers)
        place = f"c{callers}"
        figures = {
            f"{operation}_s_{place}": ours.per_second,
            f"raw_{operation}_s_{place}": raw.per_second,
            f"{operation}_ratio_to_raw_{place}": round(ours.per_second / raw.per_second, 2),
            f"{operation}_cpu_us_{place}": ours.processor_us,
        }
        if callers == CLOSE_LOOK:
            figures[f"{operation}_p50_ms_{place}"] = ours.p50_ms
            figures[f"{operation}_p99_ms_{place}"] = ours.p99_ms
        return figures

    async def _rate(self, operation: str, callers: int) -> Rate:
        load = Load(
            operation=operation,
            callers=callers,
            rounds=self._plan.rounds,
            seconds=self._plan.seconds,
        )
        return await elsewhere(measure_calls, self._target, load)


def main() -> int:
    """Measure, print a table, and write the figures of a full run."""
    options = _options()
    phases = tuple(options.phase or PHASES)
    plan = Plan(phases=phases)
    if options.quick:
        plan = Plan(phases=phases, rounds=1, seconds=1.0, events_seconds=3.0)
    console = Console()
    figures = asyncio.run(
        measure(plan, lambda what: console.print(f"measuring: {what}", style="dim"))
    )
    table = Table("figure", f"median of {plan.rounds}")
    for name, value in figures.items():
        table.add_row(name, str(value))
    console.print(table)
    console.print(
        "Valkey: appendonly, appendfsync everysec. Processor time: the session service's."
    )
    if not options.quick and phases == PHASES:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(figures, indent=1) + "\n")
        console.print(f"written to {RESULT}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.session", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--phase", action="append", choices=PHASES, help="only this; repeatable")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
