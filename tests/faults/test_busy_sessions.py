"""Turns begun in a busy session, while processes die."""

import pytest

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE as ENQUEUE,
    BUSY_POLICY_INTERRUPT as INTERRUPT,
    BUSY_POLICY_ROLLBACK as ROLLBACK,
    TURN_STATE_COMPLETED,
    TURN_STATE_INTERRUPTED,
    TURN_STATE_QUEUED,
    TURN_STATE_ROLLED_BACK,
    BusyPolicy,
)
from maieutic_client import Maieutic
from tests.faults.steps import (
    PATIENCE,
    archived_texts,
    archived_turn,
    conversation,
    frames_of,
    kinds,
    published_jobs,
    scripted,
    until_event,
)
from tests.proxy import Direction
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

ENDLESS = scripted(text=" ".join(["word"] * 500), delay=0.1)


async def texts(client: Maieutic, session: Session) -> list[str]:
    return [message.text for message in await conversation(client, session.session_id)]


async def test_five_turns_in_line_are_answered_in_order_and_each_is_told_what_came_before(
    client: Maieutic, session: Session
) -> None:
    questions = [scripted(text=f"answer {number}") for number in range(5)]
    begun = [
        await client.turns.begin(session.session_id, question, busy_policy=ENQUEUE)
        for question in questions
    ]
    outcomes = [await client.turns.watch(turn.turn_id, timeout=PATIENCE).result() for turn in begun]
    assert {outcome.state for outcome in outcomes} == {TURN_STATE_COMPLETED}
    told = [part for n, question in enumerate(questions) for part in (question, f"answer {n}")]
    assert await texts(client, session) == told
    # The scripted model counts the words that it is told.
    words = [sum(len(text.split()) for text in told[: 2 * n + 1]) for n in range(5)]
    assert [outcome.usage[-1].input_tokens for outcome in outcomes] == words


@pytest.mark.parametrize("policy", [INTERRUPT, ROLLBACK])
async def test_a_turn_that_streams_gives_way_to_the_one_that_takes_over(
    stack: RealStack, client: Maieutic, session: Session, policy: BusyPolicy.ValueType
) -> None:
    async with client.turns.stream(session.session_id, ENDLESS, timeout=PATIENCE) as first:
        await until_event(first, "delta")
        question = scripted(text="Done.")
        second = client.turns.stream(session.session_id, question, busy_policy=policy)
        assert (await second.result()).state == TURN_STATE_COMPLETED
        stopped = await first.result()
    kept = [] if policy == ROLLBACK else [ENDLESS, stopped.text]
    assert await texts(client, session) == [*kept, question, "Done."]
    if policy == INTERRUPT:
        assert stopped.state == TURN_STATE_INTERRUPTED
        assert stopped.text.startswith("word")
    else:
        assert (stopped.state, stopped.text) == (TURN_STATE_ROLLED_BACK, "")
    for turn_id in (first.turn_id, second.turn_id):
        assert kinds(await frames_of(client, turn_id)).count("outcome") == 1
        await archived_turn(stack, turn_id)
    # It holds no worker any more: its only call was left.
    assert stack.calls().count(first.turn_id) == 1

    async def settled() -> bool:
        rows = await stack.rows(
            "SELECT text FROM messages WHERE session_id = $1 AND position IS NOT NULL",
            session.session_id,
        )
        return len(rows) == len(kept) + 2

    await wait_until(settled, PATIENCE)
    assert await texts(client, session) == [*kept, question, "Done."]


async def test_a_session_service_killed_before_it_publishes_the_promoted_job_runs_it_when_back(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    async def promoted() -> bool:
        return (await client.turns.get(second.turn_id)).state == TURN_STATE_QUEUED

    link = stack.bus["session"]
    stack.freeze("agents")  # until both turns are begun
    async with published_jobs(stack.backends.rabbit) as jobs:
        first = await client.turns.begin(session.session_id, scripted(text="one two"))
        second = await client.turns.begin(
            session.session_id, scripted(text="three"), busy_policy=ENQUEUE
        )
        assert second.waiting_position == 1
        await wait_until(lambda: any(job.turn_id == first.turn_id for job in jobs), PATIENCE)
        # From here on nothing that it publishes gets through; the worker's outcome does.
        link.pause(Direction.TO_SERVER)
        stack.thaw("agents")
        await wait_until(promoted, PATIENCE)
        await stack.kill9("session")
        await link.cut()
        link.resume(Direction.TO_SERVER)
        assert [job for job in jobs if job.turn_id == second.turn_id] == []
        await stack.start("session")
        outcome = await client.turns.watch(second.turn_id, timeout=PATIENCE).result()
    assert (outcome.state, outcome.text) == (TURN_STATE_COMPLETED, "three")
    assert stack.calls().count(second.turn_id) == 1
    await archived_turn(stack, second.turn_id)
    assert (await archived_texts(stack, session.session_id))[1::2] == ["one two", "three"]
