"""Turns are cancelled and interrupted in every phase: what they called is left, and settled."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_INTERRUPT,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_INTERRUPTED,
)
from services.agents.agents import claims, code_plan
from services.agents.routing_slip import CODE_FILE
from tests.faults.phases import LATER, PHASES, Phase, Place, place_to_stop_in
from tests.faults.steps import PATIENCE, archived_turn
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

FINISHED = {"analysis": [claims.STEP], "code": [code_plan.STEP, CODE_FILE]}
"""The steps that stand, of phases that come after some."""
WAITING = ("gate", "handed_back")
"""Phases that last for a time that the model has named: it may be over when the turn is stopped."""


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def place(deployment: RealStack) -> AsyncIterator[Place]:
    """One worker for all phases: the next module's tests put another one in its place."""
    await deployment.make_whole()
    async with deployment.client() as client, place_to_stop_in(deployment, client) as place:
        yield place


@pytest.mark.parametrize("name", PHASES)
async def test_a_cancelled_turn_leaves_what_it_called_and_settles_what_it_consumed(
    place: Place, name: str
) -> None:
    async with PHASES[name](place) as phase:
        calls = len(place.requests)
        cancelled = await place.client.turns.cancel(phase.stream.turn_id)
        outcome = await phase.stream.result()
        await place.left()
        place.answer()
    assert (outcome.state, outcome.reason) == (TURN_STATE_CANCELLED, "CANCELLED_BY_CALLER")
    assert cancelled.outcome == outcome
    assert [used.step for used in outcome.usage] == FINISHED.get(name, [])
    assert [one.path for one in outcome.artifacts] == ["a.md"] * (name == "code")
    await stopped_for_good(place, phase, calls + (name in WAITING))


@pytest.mark.parametrize("name", ["first_word", "streaming", "search", "remote_tool", "gate"])
async def test_an_interrupted_turn_leaves_what_it_called_and_the_next_one_is_answered(
    place: Place, name: str
) -> None:
    async with PHASES[name](place) as phase:
        calls = len(place.requests)
        async with place.ask(phase.session, LATER, BUSY_POLICY_INTERRUPT) as following:
            await anext(following)
            outcome = await phase.stream.result()
            await place.left()
            place.answer()
            assert (await following.result()).state == TURN_STATE_COMPLETED
    assert outcome.state == TURN_STATE_INTERRUPTED
    await stopped_for_good(place, phase, calls + (name in WAITING))


async def stopped_for_good(place: Place, phase: Phase, most_calls: int) -> None:
    """Assert that nothing more is done for the turn, and that its account is closed."""
    async with place.ask(phase.session, LATER) as following:
        assert (await following.result()).state == TURN_STATE_COMPLETED
    assert len(place.requests) <= most_calls
    assert [one.end for one in place.requests if one.end != "done"] in ([], ["left"])
    await archived_turn(place.stack, phase.stream.turn_id)
    await wait_until(lambda: settled(place, phase.session), PATIENCE)


async def settled(place: Place, session: Session) -> bool:
    """Whether the session's budget and its statistics agree, and nothing is reserved."""
    spent = (await place.client.sessions.get(session)).spending
    statistics = await place.client.sessions.statistics(session)
    counted = sum(one.input_tokens + one.output_tokens for one in statistics.usage)
    return (spent.reserved_tokens, spent.tokens) == (0, counted)
