"""Turns through five processes on real Redis, RabbitMQ and PostgreSQL, with the scripted model."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.deployment import deployment
from bench.load import Run, burst, median, new_sessions, script, steady
from bench.processor import ProcessorTime
from maieutic_client import Maieutic

RESULT = Path("build/bench/turns.json")
PHASES = ("c1", "c32", "c128", "burst200", "burst1000", "first")
"""Clients that ask one question after the other, questions at once, and the time to first text."""
TURNS = {1: 100, 32: 960, 128: 1280}
"""Turns in a round, by the number of clients."""
# The list of calls is for tests that count them.
SETTINGS = {"agents": {"MODEL_KIND": "scripted", "MODEL_CALLS_FILE": ""}}
MODEL_SECONDS = 2.0
PACED_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how thoroughly."""

    phases: Sequence[str] = PHASES
    rounds: int = 3
    """Counted rounds, of which the median is given; one more, the first, warms up."""
    share: float = 1.0
    """Of the turns of a round with few clients; what happens at once is never made smaller."""


async def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, float]:
    """Return all figures by name; *say* is told how far it is."""
    async with deployment(SETTINGS) as stack, stack.client() as client:
        bench = _Bench(client, ProcessorTime(stack.processes()), plan)
        figures: dict[str, float] = {}
        for phase in plan.phases:
            say(phase)
            figures |= await bench.phase(phase)
        return figures


class _Bench:
    """Measures phase by phase; each warms up first."""

    def __init__(self, client: Maieutic, processor: ProcessorTime, plan: Plan) -> None:
        self._client = client
        self._processor = processor
        self._plan = plan

    async def phase(self, name: str) -> Mapping[str, float]:
        """Return the phase's figures."""
        if name == "first":
            return await self._first_frames()
        if name.startswith("burst"):
            return await self._burst(int(name.removeprefix("burst")))
        return await self._steady(int(name.removeprefix("c")))

    async def _rounds(self, once: Callable[[], Awaitable[Run]]) -> list[Run]:
        """Return the counted rounds."""
        await once()
        await self._processor.rest()
        self._processor.restart()
        return [await once() for _ in range(self._plan.rounds)]

    async def _steady(self, clients: int) -> Mapping[str, float]:
        turns = max(clients, round(TURNS[clients] * self._plan.share))
        runs = await self._rounds(
            lambda: steady(self._client, clients=clients, turns=turns, question=script())
        )
        figures = {f"turns_s_c{clients}": median([run.per_second for run in runs])}
        if clients == 32:  # noqa: PLR2004 - the load that is looked at closely
            await self._processor.rest()  # the archive's part counts, too
            figures["turn_p50_ms_c32"] = median([run.whole_ms(0.5) for run in runs])
            figures["turn_p99_ms_c32"] = median([run.whole_ms(0.99) for run in runs])
            figures |= self._processor_time(sum(len(run.samples) for run in runs))
        return figures

    def _processor_time(self, turns: int) -> Mapping[str, float]:
        used = self._processor.used()
        figures = {"cpu_ms_turn": round(sum(used.values()) * 1000 / turns, 2)}
        for part, seconds in used.items():
            figures[f"cpu_ms_turn_{part}"] = round(seconds * 1000 / turns, 2)
        return figures

    async def _burst(self, turns: int) -> Mapping[str, float]:
        question = script(first_latency=MODEL_SECONDS)

        async def once() -> Run:
            sessions = await new_sessions(self._client, turns)
            await self._processor.rest()
            return await burst(self._client, sessions, question=question)

        runs = await self._rounds(once)
        figures = {f"burst{turns}_wall_s": median([run.wall for run in runs])}
        if turns == 1000:  # noqa: PLR2004 - the burst that is looked at closely
            figures["burst1000_failures"] = sum(run.failures for run in runs)
            figures["burst1000_p99_ms"] = median([run.whole_ms(0.99) for run in runs])
        return figures

    async def _first_frames(self) -> Mapping[str, float]:
        """Measure what is added to the model's own time to its first text, at a light load."""
        question = script(first_latency=PACED_SECONDS)
        turns = max(8, round(80 * self._plan.share))
        runs = await self._rounds(
            lambda: steady(
                self._client, clients=8, turns=turns, question=question, spread=PACED_SECONDS
            )
        )
        own = PACED_SECONDS * 1000
        return {
            "first_frame_overhead_p50_ms": median([run.first_frame_ms(0.5) - own for run in runs]),
            "first_frame_overhead_p99_ms": median([run.first_frame_ms(0.99) - own for run in runs]),
        }


def write(figures: Mapping[str, float]) -> None:
    """Write the figures as one flat JSON object."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(dict(figures), indent=1) + "\n")
