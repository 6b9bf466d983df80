"""Statistics of a session: each turn counts once, archived or not."""

from google.protobuf.duration_pb2 import Duration

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1 import session_service_pb2 as pb, turn_service_pb2 as turns
from services.session.model import timestamp
from services.session.statistics import added
from tests.session.drafts import T0
from tests.session.stack import Stack


def _counts(found: pb.SessionStatistics) -> dict[str, int]:
    return {
        turns.TurnState.Name(counted.state).removeprefix("TURN_STATE_"): counted.count
        for counted in found.turns
    }


async def _answer(stack: Stack, job: RunTurn) -> work.CompleteTurnResponse:
    held = await stack.worker().claimed(job)
    request = work.CompleteTurnRequest(
        turn_id=job.turn_id, fence=held.claim.fence, claim_id=held.claim_id, text="So."
    )
    request.usage.add(
        model="m1", input_tokens=10, output_tokens=3, cached_tokens=1, cost_micros=40, currency="X"
    )
    request.usage.add(model="m2", input_tokens=5)
    response: work.CompleteTurnResponse = await stack.first.work.CompleteTurn(request)
    await stack.archiver.publish(stack.bus, response.finished)
    return response


async def test_a_turn_counts_once_while_it_runs_ends_and_is_archived(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create(document_ids=["d" * 20, "e" * 20])).session_id
    empty = await user.statistics(session_id)
    assert (empty.message_count, empty.document_count, _counts(empty)) == (0, 2, {})
    turn = await user.begin(session_id)
    job = await stack.jobs.next(turn.turn_id)
    assert _counts(await user.statistics(session_id)) == {"QUEUED": 1}
    held = await stack.claim(turn.turn_id)
    assert _counts(await user.statistics(session_id)) == {"RUNNING": 1}
    await held.fail(retryable=True)
    with stack.archiver.paused():
        await _answer(stack, job)
        ended = await user.statistics(session_id)
        assert (_counts(ended), ended.retry_count, ended.message_count) == ({"COMPLETED": 1}, 1, 2)
        assert [(u.model, u.call_count, u.input_tokens) for u in ended.usage] == [
            ("m1", 1, 10),
            ("m2", 1, 5),
        ]
        assert ended.total_duration == ended.longest_duration
    await stack.archived(turn.turn_id)
    archived = await user.statistics(session_id)
    assert (_counts(archived), archived.retry_count) == ({"COMPLETED": 1}, 1)
    assert [(u.model, u.call_count, u.input_tokens) for u in archived.usage] == [
        ("m1", 1, 10),
        ("m2", 1, 5),
    ]


async def test_archived_and_live_turns_are_added_up(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    first = await user.begin(session_id)
    await _answer(stack, await stack.jobs.next(first.turn_id))
    await stack.archived(first.turn_id)
    with stack.archiver.paused():
        second = await user.begin(session_id)
        await _answer(stack, await stack.jobs.next(second.turn_id))
        third = await user.begin(session_id)
        await user.cancel(third.turn_id)
        found = await user.statistics(session_id)
    assert _counts(found) == {"COMPLETED": 2, "CANCELLED": 1}
    assert [(u.model, u.call_count, u.input_tokens) for u in found.usage] == [
        ("m1", 2, 20),
        ("m2", 2, 10),
    ]
    assert [(u.currency, u.HasField("cost_micros"), u.cost_micros) for u in found.usage] == [
        ("X", True, 80),
        ("", False, 0),
    ]


def test_amounts_in_different_currencies_are_not_added_up() -> None:
    earlier = pb.SessionStatistics()
    earlier.usage.add(model="m", call_count=1, cost_micros=5, currency="EUR")
    earlier.usage.add(model="m", call_count=1)
    turn = turns.Turn()
    turn.outcome.usage.add(model="m", cost_micros=7, currency="USD")
    turn.outcome.usage.add(model="m", cost_micros=0, currency="EUR")
    turn.outcome.usage.add(model="m", currency="EUR")
    total = added(earlier, [turn])
    assert [(u.currency, u.HasField("cost_micros"), u.cost_micros) for u in total.usage] == [
        ("", False, 0),
        ("EUR", True, 5),
        ("USD", True, 7),
    ]
    assert [used.call_count for used in total.usage] == [2, 2, 1]


def test_durations_are_added_up_from_the_first_touch_of_a_worker_on() -> None:
    earlier = pb.SessionStatistics(
        total_duration=Duration(seconds=5), longest_duration=Duration(seconds=4)
    )
    counted = []
    for took_ms in (1_500, 4_250, None):
        turn = turns.Turn(state=turns.TURN_STATE_COMPLETED, finish_time=timestamp(T0))
        turn.outcome.state = turns.TURN_STATE_COMPLETED
        if took_ms is not None:  # else no worker had it
            turn.start_time.CopyFrom(timestamp(T0 - took_ms))
        counted.append(turn)
    total = added(earlier, counted)
    assert total.total_duration.ToMilliseconds() == 5_000 + 1_500 + 4_250
    assert total.longest_duration.ToMilliseconds() == 4_250
    assert _counts(total) == {"COMPLETED": 3}
