"""Turns through five processes on real Redis, RabbitMQ and PostgreSQL, with the scripted model."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.load import Run, burst, median, script, steady
from bench.processor import ProcessorTime
from maieutic_client import Maieutic
from tests.backends.postgres import postgres
from tests.backends.rabbitmq import rabbitmq
from tests.stack import RealStack, real_stack

ROUNDS = 3
RESULT = Path("build/bench/turns.json")
SETTINGS = {
    "gateway": {"STREAMS_PER_TENANT": "2000", "CALLS_PER_TENANT": "2000"},
    "agents": {"MODEL_KIND": "scripted", "INTERACTIVE_TURNS": "1024"},
}
"""Enough room for 1000 turns at once of one tenant, in one process of each kind."""
MODEL_SECONDS = 2.0
PACED_SECONDS = 0.5


async def measure(say: Callable[[str], None]) -> dict[str, float]:
    """Return all figures by name; *say* is told how far it is."""
    async with _deployment() as stack, stack.client() as client:
        figures: dict[str, float] = {}
        processor = ProcessorTime(stack)
        for clients, turns in ((1, 100), (32, 960), (128, 1280)):
            say(f"{clients} clients")
            figures |= await _steady(client, processor, clients, turns)
        for turns in (200, 1000):
            say(f"{turns} turns of {MODEL_SECONDS:.0f} s at once")
            figures |= await _burst(client, turns)
        say("first frames")
        figures |= await _first_frames(client)
        return figures


@asynccontextmanager
async def _deployment() -> AsyncIterator[RealStack]:
    async with (
        rabbitmq() as rabbit,
        postgres() as database,
        real_stack(rabbit, database, settings=_settings(rabbit.url)) as stack,
    ):
        yield stack


def _settings(bus_url: str) -> Mapping[str, Mapping[str, str]]:
    """Return the settings, with the broker as it is: a proxy in between would be measured, too."""
    names = {*SETTINGS, "session", "persistence"}
    return {name: {"BUS_URL": bus_url, **SETTINGS.get(name, {})} for name in names}


async def _rounds(once: Callable[[], Awaitable[Run]]) -> list[Run]:
    """Return the counted runs; one more, the first, warms up."""
    await once()
    return [await once() for _ in range(ROUNDS)]


async def _steady(
    client: Maieutic, processor: ProcessorTime, clients: int, turns: int
) -> Mapping[str, float]:
    question = script()
    await steady(client, clients=clients, turns=turns, question=question)
    processor.restart()
    runs = [
        await steady(client, clients=clients, turns=turns, question=question) for _ in range(ROUNDS)
    ]
    figures = {f"turns_s_c{clients}": median([run.per_second for run in runs])}
    if clients == 32:  # noqa: PLR2004 - the load that is looked at closely
        figures["turn_p50_ms_c32"] = median([run.whole_ms(0.5) for run in runs])
        figures["turn_p99_ms_c32"] = median([run.whole_ms(0.99) for run in runs])
        used = processor.used()
        count = sum(len(run.samples) for run in runs)
        figures["cpu_ms_turn"] = round(sum(used.values()) * 1000 / count, 2)
        for part, seconds in used.items():
            figures[f"cpu_ms_turn_{part}"] = round(seconds * 1000 / count, 2)
    return figures


async def _burst(client: Maieutic, turns: int) -> Mapping[str, float]:
    question = script(first_latency=MODEL_SECONDS)
    runs = await _rounds(lambda: burst(client, turns=turns, question=question))
    figures = {f"burst{turns}_wall_s": median([run.wall for run in runs])}
    if turns == 1000:  # noqa: PLR2004 - the burst that is looked at closely
        figures["burst1000_failures"] = sum(run.failures for run in runs)
        figures["burst1000_p99_ms"] = median([run.whole_ms(0.99) for run in runs])
    return figures


async def _first_frames(client: Maieutic) -> Mapping[str, float]:
    """Measure what is added to the model's own time to its first text, at a light load."""
    question = script(first_latency=PACED_SECONDS)
    runs = await _rounds(lambda: steady(client, clients=8, turns=80, question=question))
    own = PACED_SECONDS * 1000
    return {
        "first_frame_overhead_p50_ms": median([run.first_frame_ms(0.5) - own for run in runs]),
        "first_frame_overhead_p99_ms": median([run.first_frame_ms(0.99) - own for run in runs]),
    }


def write(figures: Mapping[str, float]) -> None:
    """Write the figures as one flat JSON object."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(dict(figures), indent=1) + "\n")


def run(say: Callable[[str], None]) -> dict[str, float]:
    """Measure and write."""
    figures = asyncio.run(measure(say))
    write(figures)
    return figures
