"""Workers are killed at random under turns of every kind; what was finished is not done again."""

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from bench.agents.site import Site, deployed
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC, SESSION_MODE_UNSPECIFIED
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnOutcome, TurnState
from maieutic_client import MaieuticError
from services.agents.prompts import load_prompt
from tests.stack import TIMING

TURNS = 300
KINDS = ("answer", "chain", "answer", "chain", "code")
"""Over and over; a chain is a Socratic question with its analysis beside it."""
FILES = ("README.md", "settings.toml", "app.py")
STEPS = ("context", "conflict", "code_plan", "code_file")
"""Those of routing slips, each recognised by its instructions."""
WATCH_SECONDS = 240.0
SETTLE_SECONDS = 120.0
BETWEEN_KILLS = 10
"""Turns that begin from one kill to the next, right before it."""
SLOWLY = {"first_delay": 0.3, "delay": 0.02}
CLOCKS = {"session": TIMING["session"], "agents": {"RECORDER_HEARTBEAT_INTERVAL": "0.3"}}
"""Those that find a dead worker within seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A turn, as its caller saw it."""

    kind: str
    marker: str
    turn_id: str
    outcome: TurnOutcome | None
    """None if the caller saw none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """A call of a step, as the emulator saw it."""

    marker: str
    step: str
    """A file has a step of its own."""


async def measure_kills(turns: int = TURNS) -> Mapping[str, float]:
    """Return what the turns went through."""
    async with deployed(CLOCKS) as site:
        await site.claude.follow(_rules(turns))
        await site.stack.start("agents", replica=2)
        places = asyncio.Semaphore(0)
        kills = turns // BETWEEN_KILLS
        ended, _ = await asyncio.gather(_all(site, turns, places), _kill(site, kills, places))
        _show(one for one in ended if not _completed(one))
        await site.stack.make_whole()
        unfinished = await _unfinished(site)
        calls = [called for one in await site.claude.requests() if (called := _called(one["body"]))]
        return {
            "kills": kills,
            "kills_turns": len(ended),
            "kills_failures": sum(not _completed(one) for one in ended),
            "kills_without_one_end": unfinished + await _without_one_end(site, ended),
            "kills_steps": len(set(calls)),
            "kills_calls_of_steps": len(calls),
            "steps_called_twice": called_twice(calls),
        }


async def _all(site: Site, turns: int, places: asyncio.Semaphore) -> Sequence[Ended]:
    async def one(number: int, kind: str) -> Ended:
        await places.acquire()
        return await _turn(site, _marker(number), kind)

    return await asyncio.gather(*(one(*each) for each in enumerate(islice(cycle(KINDS), turns))))


async def _turn(site: Site, marker: str, kind: str) -> Ended:
    """Have one turn in a session of its own."""
    client = site.client
    mode = SESSION_MODE_SOCRATIC if kind == "chain" else SESSION_MODE_UNSPECIFIED
    session = await client.sessions.create(mode=mode)
    begin = client.turns.generate_code if kind == "code" else client.turns.stream
    async with begin(session, f"{marker} What now?", timeout=WATCH_SECONDS) as stream:
        try:
            outcome = await stream.result()
        except MaieuticError:
            outcome = None
    return Ended(kind=kind, marker=marker, turn_id=stream.turn_id, outcome=outcome)


async def _kill(site: Site, kills: int, places: asyncio.Semaphore) -> None:
    """Kill one of two workers, whichever chance says, each time some more turns have begun."""
    chance = random.Random(7)
    for _ in range(kills):
        for _ in range(BETWEEN_KILLS):
            places.release()
        await asyncio.sleep(chance.random())  # at any moment of the turns under way
        replica = chance.choice((1, 2))
        await site.stack.kill9("agents", replica=replica)
        await site.stack.start("agents", replica=replica)


async def _unfinished(site: Site) -> int:
    """Wait until the archive has an end for every turn, also of those that nobody watches.

    Returns how many have none in the end.
    """
    query = "SELECT count(*) AS number FROM turns WHERE state = 'ACCEPTED'"
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := int((await site.stack.rows(query))[0]["number"]):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(1)
    return left


async def _without_one_end(site: Site, ended: Sequence[Ended]) -> int:
    """Return of how many turns a later reader sees no end, another one, or several."""
    wrong = 0
    for one in ended:
        async with site.client.turns.watch(one.turn_id, timeout=WATCH_SECONDS) as stream:
            ends = [frame.outcome async for frame in stream if frame.HasField("outcome")]
        same = len(ends) == 1 and one.outcome is not None and ends[0].text == one.outcome.text
        wrong += not same
    return wrong


def _completed(ended: Ended) -> bool:
    return ended.outcome is not None and ended.outcome.state == TURN_STATE_COMPLETED


def _show(failures: Iterable[Ended]) -> None:
    """Print what became of the turns that did not complete."""
    for one in failures:
        end = one.outcome or TurnOutcome()
        state = TurnState.Name(end.state)
        print(f"{one.turn_id}: {one.kind}, {state} {end.reason}, attempts: {end.attempts}")


def called_twice(calls: Sequence[Called]) -> int:
    """Return how many calls were made of a step that was finished then.

    *calls* are in the order in which they came. A turn's step is finished once another of its
    steps is called: whoever calls a step before it after that has forgotten it.
    """
    order: dict[str, list[str]] = defaultdict(list)
    again = 0
    for call in calls:
        steps = order[call.marker]
        if call.step not in steps:
            steps.append(call.step)
        again += steps[-1] != call.step
    return again


def _called(body: Any) -> Called | None:
    """Return which step the request is of; None for those that are no step."""
    instructions = body["system"][0]["text"]
    step = next((one for one in STEPS if load_prompt(one, 1).text == instructions), None)
    if step is None:
        return None
    asked = json.dumps(body["messages"], ensure_ascii=False)
    if step == "code_file":
        step = next(path for path in FILES if f"Write the file {path}" in asked)
    return Called(marker=asked[asked.index("[t") :][: len(_marker(0))], step=step)


def _marker(number: int) -> str:
    return f"[t{number:04}]"


def _rules(turns: int) -> Sequence[Mapping[str, Any]]:
    """Return answers that fit the forms; what is found in a chain names its turn again."""
    files = [{"path": path, "purpose": "It is needed.", "interface": ""} for path in FILES]
    conflicts = {"conflicts": list[str]()}
    return [
        _rule("code_plan", {"files": files, "assumptions": list[str]()}),
        _rule("conflict", conflicts),
        *(_rule("context", _found(number), contains=_marker(number)) for number in range(turns)),
        SLOWLY,
    ]


def _rule(step: str, form: Mapping[str, Any], **more: str) -> Mapping[str, Any]:
    instructions = load_prompt(step, 1).text
    return {"instructed": instructions, "text": json.dumps(form), **more, **SLOWLY}


def _found(number: int) -> Mapping[str, Any]:
    found = [
        {"category": "all", "key": key, "value": f"{_marker(number)} {key}", "confidence": 1}
        for key in ("one", "other")
    ]
    return {"specifications": found}
