"""A server is away for a while."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from maieutic_client import Maieutic
from tests.faults.steps import PATIENCE, archived_turn, one_answer, scripted, until_event
from tests.stack import RealStack

pytestmark = pytest.mark.asyncio(loop_scope="package")

ANSWER = "one two three four five"
QUESTION = scripted(text=ANSWER, delay=0.1)


async def test_a_turn_that_is_begun_without_a_broker_runs_once_it_is_back(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    async with without_broker(stack):
        turn = await client.turns.begin(session.session_id, QUESTION)
        assert not turn.durable
    outcome = await client.turns.watch(turn.turn_id, timeout=PATIENCE).result()
    assert (outcome.state, outcome.text) == (TURN_STATE_COMPLETED, ANSWER)
    assert (await archived_turn(stack, turn.turn_id))["state"] == "COMPLETED"
    assert stack.calls().count(turn.turn_id) == 1


async def test_a_broker_that_is_lost_in_mid_turn_costs_no_second_model_call(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    async with client.turns.stream(session.session_id, QUESTION, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        async with without_broker(stack):
            outcome = await stream.result()
    assert (outcome.state, outcome.text, outcome.attempts) == (TURN_STATE_COMPLETED, ANSWER, 1)
    row = await archived_turn(stack, stream.turn_id)
    assert (row["state"], row["attempts"]) == ("COMPLETED", 1)
    assert stack.calls().count(stream.turn_id) == 1


async def test_turns_go_on_without_postgresql_and_are_archived_once_it_is_back(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    async with stack.database.outage():
        stream = client.turns.stream(session.session_id, QUESTION, timeout=PATIENCE)
        assert (await stream.result()).text == ANSWER
        await one_answer(client, session.session_id, QUESTION, ANSWER)
        query = "SELECT 1 FROM turns WHERE turn_id = $1 AND state = 'COMPLETED'"
        assert await stack.rows(query, stream.turn_id) == []
    assert (await archived_turn(stack, stream.turn_id))["state"] == "COMPLETED"
    await one_answer(client, session.session_id, QUESTION, ANSWER)


@asynccontextmanager
async def without_broker(stack: RealStack) -> AsyncIterator[None]:
    async with AsyncExitStack() as outages:
        for link in stack.bus.values():
            await outages.enter_async_context(link.outage())
        yield
