"""What the session service shows of a turn: its trace goes on wherever the turn does."""

from collections.abc import Mapping

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from maieutic.bus.v1.bus_pb2 import TurnAccepted
from maieutic.session.v1 import turn_work_service_pb2 as work
from services.runtime import names
from services.runtime.memory import MemoryBus
from services.runtime.topology import maieutic_topology
from services.session.transitions import TRACED_ATTEMPTS
from tests.recorded import Recorded, recording, span_id
from tests.session.buses import LossyBus
from tests.session.stack import SOON, Held, Stack, session_stack
from tests.waiting import wait_until

BEGIN = "maieutic.v1.TurnService/BeginTurn"


def traceparent(number: int) -> str:
    return f"00-{'a' * 32}-{number:016x}-01"


def parent_in(headers: Mapping[str, str]) -> int:
    return int(headers["traceparent"].split("-")[2], 16)


def serving(recorded: Recorded, method: str) -> ReadableSpan:
    (found,) = (one for one in recorded.named(method) if one.kind is SpanKind.SERVER)
    return found


def children(recorded: Recorded, of: ReadableSpan, name: str) -> list[ReadableSpan]:
    return [
        one
        for one in recorded.named(name)
        if one.parent is not None and one.parent.span_id == span_id(of)
    ]


async def begun(stack: Stack) -> str:
    user = stack.user()
    return (await user.begin((await user.create()).session_id)).turn_id


async def test_a_job_and_its_acceptance_belong_to_the_call_that_began_the_turn(
    store_url: str,
) -> None:
    async with recording() as recorded, session_stack(store_url) as stack:
        turn_id = await begun(stack)
        job = await stack.jobs.next(turn_id)
        await wait_until(lambda: turn_id in stack.archive.accepted, SOON)
        begin = serving(recorded, BEGIN)
        assert parent_in(job.trace_context) == span_id(begin)
        await wait_until(lambda: bool(children(recorded, begin, "publish results")), SOON)
    (transaction,) = children(recorded, begin, names.TRANSACT)[:1]
    assert (transaction.kind, transaction.status.status_code) == (
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    (published,) = children(recorded, begin, "publish turns")
    assert published.kind is SpanKind.PRODUCER
    accepted = [body for key, body in stack.archiver.facts if key == "turn.accepted"]
    assert parent_in(TurnAccepted.FromString(accepted[0]).job.trace_context) == span_id(begin)


async def test_a_job_that_is_published_again_stays_in_its_trace(store_url: str) -> None:
    bus = LossyBus(memory := MemoryBus(maieutic_topology()))
    async with (
        recording() as recorded,
        session_stack(store_url, memory=memory, bus=bus) as stack,
    ):
        bus.lose_exchange("turns", times=1)
        turn_id = await begun(stack)
        await stack.jobs.next(turn_id)
        begin = serving(recorded, BEGIN)

        def published_by_the_clock() -> bool:
            sweeps = children(recorded, begin, names.SWEEP_TURN)
            return any(children(recorded, sweep, "publish turns") for sweep in sweeps)

        await wait_until(published_by_the_clock, SOON)


async def claimed(stack: Stack, turn_id: str, nth: int) -> Held:
    request = work.ClaimTurnRequest(
        worker_id="w",
        claim_id=f"claim-{nth}",
        job=await stack.jobs.next(turn_id, nth=nth),
        traceparent=traceparent(nth),
    )
    response = await stack.first.work.ClaimTurn(request)
    return Held(stack, stack.first, turn_id, f"claim-{nth}", response.claim)


async def test_an_attempt_learns_which_attempts_came_before_it(store_url: str) -> None:
    async with session_stack(store_url, max_attempts=9) as stack:
        turn_id = await begun(stack)
        found = []
        for nth in range(1, TRACED_ATTEMPTS + 3):
            held = await claimed(stack, turn_id, nth)
            found.append(list(held.claim.earlier_traceparents))
            await held.fail(retryable=True)
        assert found[:3] == [[], [traceparent(1)], [traceparent(1), traceparent(2)]]
        assert len(found[-1]) == TRACED_ATTEMPTS - 1
        assert found[-1][-1] == traceparent(TRACED_ATTEMPTS + 1)


async def test_a_claim_that_is_repeated_is_not_an_earlier_attempt(store_url: str) -> None:
    async with session_stack(store_url) as stack:
        turn_id = await begun(stack)
        await claimed(stack, turn_id, 1)
        again = await claimed(stack, turn_id, 1)
        assert not again.claim.earlier_traceparents


async def test_turns_are_counted_and_timed_by_outcome(store_url: str) -> None:
    async with recording() as recorded, session_stack(store_url) as stack:
        await stack.answer(await begun(stack), "Because.")
        failed = await stack.claim(await begun(stack))
        await failed.fail(retryable=False, reason="MODEL_REFUSED")
        ended = recorded.points(names.TURNS_ENDED, names.TURN_STATE, names.TURN_REASON)
        assert {key: point.value for key, point in ended.items()} == {
            ("COMPLETED", None): 1,
            ("FAILED", "MODEL_REFUSED"): 1,
        }
        took = recorded.points(names.TURN_DURATION, names.TURN_STATE)
        assert {key: point.count for key, point in took.items()} == {
            ("COMPLETED",): 1,
            ("FAILED",): 1,
        }
        (waited,) = recorded.points(names.QUEUE_WAIT, names.LANE).values()
        assert waited.count == 2
        assert 0 <= waited.sum < 60


async def test_the_clock_tells_how_full_the_store_is_and_how_long_the_broker_has_been_away(
    store_url: str,
) -> None:
    async with recording() as recorded, session_stack(store_url) as stack:
        with stack.bus.holding_confirms():
            await begun(stack)

            def behind() -> bool:
                points = recorded.points(names.OLDEST_UNCONFIRMED).values()
                return any(point.value > 0 for point in points)

            await wait_until(behind, SOON)
        (memory,) = recorded.points(names.STORE_MEMORY).values()
        assert 0 <= memory.value < 1
