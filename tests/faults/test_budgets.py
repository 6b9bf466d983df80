"""Budgets in a deployment of real processes."""

import pytest
from redis.asyncio import Redis

from maieutic.v1.budget_pb2 import Budget, Spending
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TURN_STATE_OVER_BUDGET
from maieutic_client import BudgetSpent, Maieutic
from services.agents.budget import UNLIMITED_ANSWER
from tests.faults.steps import HANGING, PATIENCE, archived_turn, scripted, until_event
from tests.stack import RealStack

pytestmark = pytest.mark.asyncio(loop_scope="package")

SECOND_TIME = scripted(text="one two three four five six", **HANGING)


async def test_what_a_killed_worker_had_reserved_is_spent_and_the_archive_knows_the_end(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    await client.sessions.update(session, budget=Budget(tokens=50_000))
    async with client.turns.stream(session, SECOND_TIME, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        reserved = (await client.sessions.get(session)).spending.reserved_tokens
        assert reserved > UNLIMITED_ANSWER
        await stack.kill9("agents")
        await stack.start("agents")
        outcome = await stream.result()
    (used,) = outcome.usage
    assert (outcome.state, outcome.attempts) == (TURN_STATE_COMPLETED, 2)
    spent = reserved + used.input_tokens + used.output_tokens
    assert (await client.sessions.get(session)).spending == Spending(tokens=spent)
    await client.sessions.update(session, budget=Budget(tokens=spent + 100))
    stream = client.turns.stream(session, SECOND_TIME, timeout=PATIENCE)
    assert (await stream.result()).state == TURN_STATE_OVER_BUDGET
    assert await archived_turn(stack, stream.turn_id) == {
        "state": "OVER_BUDGET",
        "attempts": 1,
        "reason": "SESSION_BUDGET_SPENT",
    }
    async with Redis.from_url(stack.backends.redis.url) as redis:
        await redis.flushall()
    # What the killed worker's call has cost is in no account, but in the archive's session.
    assert (await client.sessions.get(session)).spending == Spending(tokens=spent)
    await client.sessions.update(session, budget=Budget(tokens=spent))
    with pytest.raises(BudgetSpent, match=f"{spent} of {spent} tokens"):
        await client.turns.begin(session, SECOND_TIME)
