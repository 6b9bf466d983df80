"""A session in which the agent asks: what it understands, where it conflicts, what is decided."""

import pytest

from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.specification_pb2 import RESOLUTION_KIND_KEEP_SECOND
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from maieutic_client import Maieutic
from services.demo.interview import ANSWERS, STORAGE, USERS
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE = 30.0


async def test_two_planted_contradictions_are_found_and_a_decision_is_respected(
    client: Maieutic,
) -> None:
    session = await client.sessions.create(mode=SESSION_MODE_SOCRATIC)
    first = await client.turns.next_question(session, timeout=PATIENCE).result()
    assert first.state == TURN_STATE_COMPLETED
    assert first.text.endswith("?")
    for answer in ANSWERS:
        outcome = await client.turns.stream(session, answer, timeout=PATIENCE).result()
        assert outcome.text.endswith("?"), "it asks, and never answers for the user"

    async def both_found() -> bool:
        return len([one async for one in client.specifications.conflicts(session)]) == 2

    await wait_until(both_found, PATIENCE)
    storage, users = [one async for one in client.specifications.conflicts(session)]
    assert (storage.first.value, storage.second.value) == STORAGE
    assert (users.first.value, users.second.value) == USERS

    await client.specifications.resolve(session, storage.conflict_id, RESOLUTION_KIND_KEEP_SECOND)
    left = [one async for one in client.specifications.conflicts(session)]
    assert [one.conflict_id for one in left] == [users.conflict_id]
    values = [one.value async for one in client.specifications.list(session)]
    assert STORAGE[1] in values
    assert STORAGE[0] not in values
    # What is open is asked about, what was decided is not.
    asked = await client.turns.next_question(session, timeout=PATIENCE).result()
    assert USERS[1] in asked.text
    questions = [one.text async for one in client.specifications.questions(session)]
    assert len(questions) == len(ANSWERS) + 2
    assert questions[0] == first.text
