"""Workers die, freeze and are replaced in the middle of a turn."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pytest
from google.protobuf.message import Message

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.session.v1.record_pb2 import TurnRecord
from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceStub
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import (
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TurnDelta,
    TurnFrame,
)
from maieutic_client import Maieutic
from tests.faults.steps import (
    HANGING,
    PATIENCE,
    archived_texts,
    archived_turn,
    frames_of,
    kinds,
    live_turn,
    one_answer,
    said,
    scripted,
    until_event,
)
from tests.stack import RealStack

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="package")

M = TypeVar("M", bound=Message)

ANSWER = "one two three four five six seven eight nine ten"
SECOND_TIME = scripted(text=ANSWER, **HANGING)


async def test_a_worker_killed_in_mid_turn_leaves_one_answer_two_attempts_and_one_row(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    async with client.turns.stream(session.session_id, SECOND_TIME, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        await stack.kill9("agents")
        await stack.start("agents")
        started = await until_event(stream, "started")
        assert started.started.attempt == 2
        outcome = await stream.result()
    assert outcome.state == TURN_STATE_COMPLETED
    assert (outcome.text, outcome.attempts) == (ANSWER, 2)
    row = await archived_turn(stack, stream.turn_id)
    assert row == {"state": "COMPLETED", "attempts": 2, "reason": ""}
    assert await archived_texts(stack, session.session_id) == [SECOND_TIME, ANSWER]
    await one_answer(client, session.session_id, SECOND_TIME, ANSWER)
    assert stack.calls().count(stream.turn_id) == 2


async def test_a_worker_killed_after_it_called_for_code_has_it_begun_once(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    ends_at_once = scripted(fail="rejected")
    call = {"name": "generate_code", "input": {"instructions": ends_at_once}}
    question = scripted(calls=[[call]], text=ANSWER, delay=0.25)
    async with client.turns.stream(session.session_id, question, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        await stack.kill9("agents")
        await stack.start("agents")
        outcome = await stream.result()
    assert (outcome.text, outcome.attempts) == (ANSWER, 2)
    (code,) = outcome.handed_on
    ended = await client.turns.watch(code.turn_id, timeout=PATIENCE).result()
    assert (ended.state, ended.reason) == (TURN_STATE_FAILED, "MODEL_REJECTED")
    for turn_id in (stream.turn_id, code.turn_id):
        await archived_turn(stack, turn_id)
    rows = await stack.rows("SELECT turn_id FROM turns WHERE session_id = $1", session.session_id)
    assert {row["turn_id"] for row in rows} == {stream.turn_id, code.turn_id}
    await one_answer(client, session.session_id, question, ANSWER)


async def test_a_worker_that_wakes_up_after_its_lease_changes_nothing(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    question = scripted(text=ANSWER, delay=0.3)
    async with client.turns.stream(session.session_id, question, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        stack.freeze("agents")
        await stack.start("agents", replica=2)
        outcome = await stream.result()
    assert (outcome.text, outcome.attempts) == (ANSWER, 2)
    await archived_turn(stack, stream.turn_id)
    before = await frames_of(client, stream.turn_id)
    stack.thaw("agents")
    # It drains: by its end it has tried to say all that it had to say.
    await stack.stop("agents")
    after = await frames_of(client, stream.turn_id)
    assert after == before
    assert kinds(after)[-1] == "outcome"
    assert said(after) == ANSWER
    assert await archived_turn(stack, stream.turn_id) == {
        "state": "COMPLETED",
        "attempts": 2,
        "reason": "",
    }
    await one_answer(client, session.session_id, question, ANSWER)


async def test_what_an_earlier_attempt_writes_is_refused(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    question = scripted(text=ANSWER, delay=0.2, **HANGING)
    async with client.turns.stream(session.session_id, question, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        lost = await live_turn(stack, stream.turn_id)
        await stack.kill9("agents")
        await stack.start("agents")
        await until_event(stream, "started")
        async with stack.stub_channel("session", caller="agents") as channel:
            await all_refused(TurnWorkServiceStub(channel), lost)
        outcome = await stream.result()
    assert (outcome.text, outcome.attempts) == (ANSWER, 2)
    assert "late" not in said(await frames_of(client, stream.turn_id))


async def test_a_worker_that_is_replaced_hands_its_turn_back_and_the_attempt_does_not_count(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    async with client.turns.stream(session.session_id, SECOND_TIME, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        await stack.stop("agents")
        await stack.start("agents")
        outcome = await stream.result()
    assert outcome.state == TURN_STATE_COMPLETED
    assert (outcome.text, outcome.attempts) == (ANSWER, 1)
    assert stack.calls().count(stream.turn_id) == 2
    assert (await archived_turn(stack, stream.turn_id))["attempts"] == 1
    await one_answer(client, session.session_id, SECOND_TIME, ANSWER)


async def all_refused(service: "TurnWorkServiceAsyncStub", lost: TurnRecord) -> None:
    turn_id = lost.job.turn_id

    def late(kind: Callable[..., M], **fields: object) -> M:
        return kind(turn_id=turn_id, fence=lost.fence, claim_id=lost.claim_id, **fields)

    frame = TurnFrame(turn_id=turn_id, delta=TurnDelta(text="late"))
    events = late(work.TurnEvents, first_seq=50, frames=[frame])
    beat = late(work.TurnHeartbeat)
    call = service.RecordTurnEvents()
    for report in ({"events": [events]}, {"heartbeats": [beat]}):
        await call.write(work.RecordTurnEventsRequest(**report))
        reply = await call.read()
        assert isinstance(reply, work.RecordTurnEventsResponse)
        assert reply.fenced_turn_ids == [turn_id]
    result = late(work.CompleteTurnRequest, last_seq=50, text="late")
    assert (await service.CompleteTurn(result)).status == work.WRITE_STATUS_FENCED
    failure = late(work.FailTurnRequest, last_seq=50, reason="LATE", retryable=True)
    assert (await service.FailTurn(failure)).status == work.WRITE_STATUS_FENCED
    release = late(work.ReleaseTurnRequest)
    assert (await service.ReleaseTurn(release)).status == work.WRITE_STATUS_FENCED
