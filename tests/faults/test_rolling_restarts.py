"""All workers are replaced one after the other, under load: no turn is lost, no step done twice."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC, SESSION_MODE_UNSPECIFIED
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnOutcome
from maieutic_client import Maieutic
from services.agents.agents import code_plan, conflict, context
from services.agents.prompts import load_prompt
from tests.emulators.anthropic import Seen, anthropic_emulator
from tests.emulators.anthropic_plan import Rule
from tests.faults.steps import PATIENCE, frames_of
from tests.stack import REPLICAS, RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

FLOWS = {"answer": 3, "chain": 3, "code": 2}
"""How many callers of each kind there are, each with one turn after the other."""
MOST_TURNS = 500
TEXT = " ".join(map(str, range(60)))
"""Takes longer to say than a worker waits at its end."""
DELAY = 0.04
GRACE = "3.5"
"""Half of it for turns to finish, half to hand back the others."""
PATHS = ("a.md", "b.md")
STEPS = {step: load_prompt(step, 1).text for step in (context.STEP, conflict.STEP, code_plan.STEP)}


def marker(number: int) -> str:
    return f"[t{number:04}]"


def plan() -> list[Rule]:
    """Return answers that fit the forms; what is found in a chain names its turn again."""
    files = [{"path": path, "purpose": "Is a file.", "interface": ""} for path in PATHS]
    found = [
        {"category": "all", "key": key, "value": key, "confidence": 1} for key in ("one", "other")
    ]
    return [
        filled(code_plan.STEP, {"files": files, "assumptions": []}),
        filled(conflict.STEP, {"conflicts": []}),
        *(
            filled(
                context.STEP,
                {"specifications": [{**one, "value": marker(number)} for one in found]},
                about=marker(number),
            )
            for number in range(MOST_TURNS)
        ),
        Rule(text=TEXT, delay=DELAY),
    ]


def filled(step: str, form: object, *, about: str = "") -> Rule:
    text = json.dumps(form)
    return Rule(instructed=STEPS[step], contains=about, text=text, delay=DELAY, words=2)


@dataclass(kw_only=True)
class Load:
    """Callers that go on until they are told to end."""

    client: Maieutic
    over: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: list[str] = field(default_factory=list)
    outcomes: dict[str, TurnOutcome] = field(default_factory=dict)
    """By turn."""

    async def caller(self, kind: str) -> None:
        mode = SESSION_MODE_SOCRATIC if kind == "chain" else SESSION_MODE_UNSPECIFIED
        begin = self.client.turns.generate_code if kind == "code" else self.client.turns.stream
        while not self.over.is_set():
            session = await self.client.sessions.create(mode=mode)
            asked = marker(len(self.sessions))
            self.sessions.append(session.session_id)
            async with begin(session, asked, timeout=2 * PATIENCE) as stream:
                self.outcomes[stream.turn_id] = await stream.result()


@asynccontextmanager
async def loaded(client: Maieutic) -> AsyncIterator[Load]:
    """Have callers of every kind during the block, and wait for their last turns."""
    load = Load(client=client)
    async with asyncio.TaskGroup() as group:
        for kind, callers in FLOWS.items():
            for _ in range(callers):
                group.create_task(load.caller(kind))
        yield load
        load.over.set()


def called_again(requests: Sequence[Seen]) -> list[str]:
    """Return the calls of steps that were finished: a later step had been called by then."""
    order, again = defaultdict[str, list[str]](list), list[str]()
    for seen in requests:
        body = json.dumps(seen.body)
        about, step = body[body.index("[t") :][: len(marker(0))], step_of(seen)
        if step not in order[about]:
            order[about].append(step)
        if order[about][-1] != step:
            again.append(f"{about} {step}")
    return again


def step_of(seen: Seen) -> str:
    """Return what the request is for; each file is a step."""
    instructions = seen.body["system"][0]["text"]
    asked = json.dumps(seen.body["messages"])
    file = next((path for path in PATHS if f"Write the file {path}" in asked), "")
    return file or next((step for step, text in STEPS.items() if text == instructions), "")


async def test_replacing_all_workers_under_load_loses_and_doubles_nothing(
    stack: RealStack, client: Maieutic
) -> None:
    async with anthropic_emulator() as emulator:
        emulator.plan = plan()
        settings = {
            "model_kind": "claude",
            "model_claude_api_key": "key",
            "model_claude_base_url": emulator.url,
            "grace": GRACE,
        }
        await asyncio.gather(
            stack.replace("agents", **settings), stack.start("agents", replica=2, **settings)
        )
        async with loaded(client) as load:
            await wait_until(lambda: emulator.active >= sum(FLOWS.values()), PATIENCE)
            # What the first hands back may be at the second when that is replaced.
            for replica in REPLICAS:
                await stack.stop("agents", replica=replica)
                await stack.start("agents", replica=replica, **settings)
        rows = await archived(stack, load.sessions)
        assert any(seen.end == "left" for seen in emulator.requests), "turns were handed back"
        steps = [seen for seen in emulator.requests if step_of(seen)]
        assert called_again(steps) == []
    assert {one.state for one in load.outcomes.values()} == {TURN_STATE_COMPLETED}
    assert {one.attempts for one in load.outcomes.values()} == {1}
    assert {(row["state"], row["attempts"]) for row in rows} == {("COMPLETED", 1)}
    assert set(load.outcomes) <= {row["turn_id"] for row in rows}
    for turn_id, outcome in load.outcomes.items():
        ends = [one.outcome for one in await frames_of(client, turn_id) if one.HasField("outcome")]
        assert ends == [outcome]


async def archived(stack: RealStack, sessions: Sequence[str]) -> Sequence[dict[str, object]]:
    """Wait until every turn of the sessions has ended, those that nobody watches too."""
    rows: list[dict[str, object]] = []

    async def ended() -> bool:
        query = "SELECT turn_id, state, attempts FROM turns WHERE session_id = ANY($1)"
        rows[:] = await stack.rows(query, list(sessions))
        return all(row["state"] != "ACCEPTED" for row in rows)

    await wait_until(ended, PATIENCE, every=0.1)
    return rows
