"""A job that takes its worker with it each time fails alone, and what it had finished stands."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TURN_STATE_FAILED
from maieutic_client import Maieutic
from services.agents.agents import code_plan
from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_plan import Rule
from tests.faults.steps import PATIENCE, archived_turn, frames_of, kinds, live_turn, until_event
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

BESIDE = 2
"""So many workers are lost beside others before a turn runs apart from them."""
ALONE = 1
"""So many attempts count: fewer than the neighbour loses workers."""
LATE = 2
"""After this attempt its worker takes longer to come back than the leases last."""
NEIGHBOUR = "And you?"
ANSWER = " ".join(map(str, range(20)))
PATHS = ("a.md", "b.md")
PLANNED = {
    "files": [{"path": path, "purpose": "Is a file.", "interface": ""} for path in PATHS],
    "assumptions": [],
}
FIRST, SECOND = (f"Write the file {path}" for path in PATHS)


@asynccontextmanager
async def claude() -> AsyncIterator[Emulator]:
    """An emulator at which the second file never ends, and the neighbour's answer only alone."""
    async with anthropic_emulator() as emulator:
        emulator.plan = [
            Rule(contains=code_plan.PLAN_THEM, text=json.dumps(PLANNED)),
            Rule(contains=FIRST, text="# A\n"),
            Rule(contains=SECOND, breaks="hang"),
            Rule(contains=NEIGHBOUR, text=ANSWER, breaks="hang", after=2, times=BESIDE),
            Rule(contains=NEIGHBOUR, text=ANSWER),
        ]
        yield emulator


def asked(emulator: Emulator, text: str) -> int:
    """Return how many calls were about this."""
    return sum(text in json.dumps(one.body["messages"]) for one in emulator.requests)


def called(emulator: Emulator, text: str, times: int) -> bool:
    return asked(emulator, text) == times


async def test_a_file_that_kills_its_worker_each_time_fails_alone_and_the_others_are_kept(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    """What falls with it twice is not blamed, even where a single attempt is all that counts."""
    await stack.replace("session", max_attempts=str(ALONE))
    other = await client.sessions.create()
    async with (
        claude() as emulator,
        client.turns.generate_code(session, "Two files.", timeout=PATIENCE) as code,
        client.turns.stream(other, NEIGHBOUR, timeout=PATIENCE) as neighbour,
    ):
        model = {"model_claude_api_key": "key", "model_claude_base_url": emulator.url}
        await stack.replace("agents", model_kind="claude", **model)
        await until_event(code, "accepted")
        await until_event(neighbour, "delta")
        for attempt in range(1, BESIDE + ALONE + 1):
            await wait_until(partial(called, emulator, SECOND, attempt), PATIENCE)
            if attempt <= BESIDE:
                await wait_until(partial(called, emulator, NEIGHBOUR, attempt), PATIENCE)
            await stack.kill9("agents")
            if attempt == LATE:
                await leases_passed(stack, code.turn_id, neighbour.turn_id)
            await stack.start("agents", replica=1, model_kind="claude", **model)
        failed, answered = await code.result(), await neighbour.result()
        calls = [asked(emulator, text) for text in (code_plan.PLAN_THEM, FIRST, SECOND)]
    assert (failed.state, failed.reason) == (TURN_STATE_FAILED, "ATTEMPTS_SPENT")
    assert failed.attempts == BESIDE + ALONE
    assert [one.path for one in failed.artifacts] == ["a.md"]
    assert calls == [1, 1, BESIDE + ALONE]
    assert (answered.state, answered.text) == (TURN_STATE_COMPLETED, ANSWER)
    assert answered.attempts == BESIDE + 1
    assert (await archived_turn(stack, code.turn_id))["state"] == "FAILED"
    assert kinds(await frames_of(client, code.turn_id)).count("outcome") == 1


async def leases_passed(stack: RealStack, *turn_ids: str) -> None:
    """Wait until nobody holds the turns any more: the broker may bring their jobs back then."""

    async def passed() -> bool:
        turns = [await live_turn(stack, turn_id) for turn_id in turn_ids]
        return all(turn.lease_end_ms < time.time() * 1000 for turn in turns)

    await wait_until(passed, PATIENCE, every=0.05)
