"""What a newer version has written beside this one is passed on, not refused."""

import grpc
import pytest

from maieutic.bus.v1.bus_pb2 import TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as pb
from maieutic.v1.turn_service_pb2 import BUSY_POLICY_ENQUEUE, TurnOutcome, TurnState
from tests.session.stack import Stack

NEWER = TurnState.ValueType(99)


async def test_an_outcome_in_a_state_of_a_newer_version_ends_its_turn(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, "first")
    waiting = await user.begin(session_id, "second", policy=BUSY_POLICY_ENQUEUE)
    job = await stack.jobs.next(turn.turn_id)
    outcome = TurnOutcome(state=NEWER, text="So.", fence=1)
    row = TurnFinished(job=job, outcome=outcome, session=job.session)
    try:
        await stack.first.archive.MarkArchived(pb.MarkArchivedRequest(turns=[row]))
    except grpc.aio.AioRpcError as error:
        pytest.fail(error.details() or "refused")
    assert (await user.get(session_id)).active_turn_id == waiting.turn_id
    assert (await stack.jobs.next(waiting.turn_id)).turn_id == waiting.turn_id
