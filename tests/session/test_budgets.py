"""Budgets of turns and sessions: what is reserved, what is settled, and what is refused."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.rpc.error_details_pb2 import QuotaFailure
from grpc import StatusCode
from hypothesis import given, settings, strategies as st

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionChanged, TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.session.v1.record_pb2 import FinishedStep
from maieutic.v1.budget_pb2 import Budget, Spending
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC, SessionStatistics
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    TURN_STATE_COMPLETED,
    TURN_STATE_OVER_BUDGET,
    TURN_STATE_QUEUED,
    Usage,
)
from services.runtime.settings import BadSettings
from services.session import transitions as t
from services.session.beginning import begin
from services.session.budget_defaults import BudgetDefaults
from services.session.budgets import LEAST_ANSWER
from services.session.ending import Ending, archived, finish_stop
from services.session.model import LEASED, LIVE, QUEUED, STUB
from services.session.restoring import adopt
from services.session.spending import accounted, known_here, set_budget
from tests.backends.redis import RedisServer
from tests.session.drafts import TIMING, Memory, job, turn_id
from tests.session.stack import SOON, Held, Stack, detail, failure, reason, session_stack
from tests.waiting import wait_until

A = turn_id("a")
PRICE = work.TokenPrice(input=2_000_000, output=10_000_000, currency="USD")
"""2 and 10 millionths of a dollar for a token."""


def usage(usage_id: str, tokens: int, cost_micros: int = 0) -> Usage:
    return Usage(usage_id=usage_id, input_tokens=tokens, cost_micros=cost_micros, currency="USD")


@dataclass(kw_only=True)
class Run:
    """A worker's run of a turn that has a budget."""

    memory: Memory
    claim_id: str = "c1"
    fence: int = field(init=False)

    def __post_init__(self) -> None:
        who = t.Claimant(worker_id="w", claim_id=self.claim_id)
        response = self.memory.apply(lambda d: t.claim(d, A, who, TIMING))
        assert response.claim.budgeted
        self.fence = response.claim.fence

    @property
    def hold(self) -> t.Hold:
        return t.Hold(turn_id=A, fence=self.fence, claim_id=self.claim_id)

    def reserve(self, number: int, reads: int, says: int, **call: Any) -> Any:
        """Return what the call may say, or the reason why it is refused."""
        asked = work.ReserveBudgetRequest(
            claim_id=self.claim_id,
            usage_id=f"{self.claim_id}:{number}",
            input_tokens=reads,
            max_tokens=says,
            **call,
        )
        answer = self.memory.apply(lambda d: t.reserve_budget(d, self.hold, asked))
        if answer.HasField("refused"):
            return answer.refused.reason
        return answer.granted.max_tokens if answer.HasField("granted") else answer.status

    def fail(self, *told: Usage, **fields: Any) -> work.FailTurnResponse:
        failure = t.failed(work.FailTurnRequest(usage=told, **fields))
        return self.memory.apply(lambda d: t.fail_attempt(d, self.hold, failure, TIMING))

    def settle(self, *told: Usage) -> None:
        request = work.SettleBudgetRequest(turn_id=A, usage=told)
        self.memory.apply(lambda d: t.settle_budget(d, request))

    def release(self, *told: Usage) -> None:
        self.memory.apply(lambda d: t.release(d, self.hold, 0, told))


def run(**budget: Any) -> Run:
    memory = Memory.with_session()
    new = job("a")
    new.budget.CopyFrom(Budget(**budget))
    memory.apply(lambda d: begin(d, new, TIMING))
    return Run(memory=memory)


def spending(memory: Memory) -> tuple[int, int]:
    """Return the session's tokens, spent and reserved."""
    assert memory.session is not None
    return memory.session.session.spending.tokens, memory.session.session.spending.reserved_tokens


def in_session(tokens: int, own: int = 0) -> Run:
    """Return a run in a session that has a budget, of a turn that may have one of its own."""
    memory = Memory.with_session()
    assert memory.session is not None
    set_budget(memory.session.session, Budget(tokens=tokens), Spending())
    new = job("a")
    if own:
        new.budget.tokens = own
    memory.apply(lambda d: begin(d, new, TIMING))
    return Run(memory=memory)


def calls(memory: Memory) -> list[tuple[int, int, bool]]:
    return [(call.tokens, call.cost_micros, call.settled) for call in memory.turns[A].calls]


@pytest.mark.parametrize(
    ("budget", "reads", "says", "granted"),
    [
        ({"tokens": 1000}, 200, 800, 800),
        ({"tokens": 1000}, 200, 801, 800),
        ({"tokens": 1000}, 1000 - LEAST_ANSWER, 5000, LEAST_ANSWER),
        ({"tokens": 1000}, 1001 - LEAST_ANSWER, 5000, "TURN_BUDGET_SPENT"),
        ({"tokens": 1000}, 990, 10, 10),
        ({"tokens": 1000}, 991, 10, "TURN_BUDGET_SPENT"),
        ({"cost_micros": 10_000, "currency": "USD"}, 1000, 800, 800),
        ({"cost_micros": 10_000, "currency": "USD"}, 1000, 801, 800),
        ({"cost_micros": 9_999, "currency": "USD"}, 1000, 800, 799),
        ({"cost_micros": 1_999, "currency": "USD"}, 1000, 1, "TURN_BUDGET_SPENT"),
        ({"tokens": 1500, "cost_micros": 10_000, "currency": "USD"}, 1000, 800, 500),
        ({"tokens": 9000, "cost_micros": 10_000, "currency": "USD"}, 1000, 8000, 800),
        ({"cost_micros": 10_000, "currency": "EUR"}, 1000, 800, "PRICE_UNKNOWN"),
    ],
)
def test_a_call_may_say_what_the_budget_leaves(
    budget: dict[str, Any], reads: int, says: int, granted: int | str
) -> None:
    assert run(**budget).reserve(1, reads, says, price=PRICE) == granted


def test_without_a_price_a_budget_of_money_allows_nothing_and_one_of_tokens_does() -> None:
    assert run(cost_micros=10**9, currency="USD").reserve(1, 10, 10) == "PRICE_UNKNOWN"
    assert run(tokens=1000).reserve(1, 10, 10) == 10


def test_a_model_that_costs_nothing_fits_any_budget_of_money() -> None:
    free = work.TokenPrice(currency="USD")
    assert run(cost_micros=1, currency="USD").reserve(1, 10**6, 10**4, price=free) == 10**4


def test_a_lost_reply_reserves_once_and_gets_the_same_answer() -> None:
    one = run(tokens=1000)
    assert one.reserve(1, 100, 900) == 900
    assert one.reserve(1, 100, 900) == 900
    assert calls(one.memory) == [(1000, 0, False)]
    assert one.reserve(2, 1, 1) == "TURN_BUDGET_SPENT"


def test_what_a_call_has_not_consumed_is_there_for_the_next() -> None:
    one = run(tokens=1000)
    one.reserve(1, 100, 900)
    assert one.reserve(2, 300, 900, usage=[usage("c1:1", 150)]) == 550
    assert calls(one.memory) == [(150, 0, True), (850, 0, False)]


def test_a_worker_that_lost_its_turn_reserves_nothing() -> None:
    one = run(tokens=1000)
    one.fence -= 1
    assert one.reserve(1, 1, 1) == work.WRITE_STATUS_FENCED
    assert calls(one.memory) == []


def test_what_a_killed_worker_has_reserved_stays_with_its_turn() -> None:
    one = run(tokens=1000)
    one.reserve(1, 100, 600)
    one.memory.now += TIMING.lease + 1
    two = Run(memory=one.memory, claim_id="c2")
    assert two.reserve(1, 100, 600) == "TURN_BUDGET_SPENT"
    assert two.reserve(1, 20, 600) == 280
    one.settle(usage("c1:1", 130))
    assert two.reserve(2, 20, 900) == 1000 - 130 - 300 - 20


@pytest.mark.parametrize("ends", ["fail", "release"])
def test_a_run_that_ends_gives_back_what_it_says_nothing_of(ends: str) -> None:
    one = run(tokens=1000)
    one.reserve(1, 100, 200)
    one.reserve(2, 100, 200)
    told = usage("c1:1", 120)
    if ends == "fail":
        one.fail(told, reason="MODEL_UNAVAILABLE", retryable=True)
    else:
        one.release(told)
    two = Run(memory=one.memory, claim_id="c2")
    assert calls(two.memory) == [(120, 0, True)]
    assert two.reserve(1, 80, 9000) == 800


def test_a_call_of_unknown_cost_costs_what_was_reserved_and_one_that_told_nothing_nothing() -> None:
    one = run(cost_micros=10_000, currency="USD")
    one.reserve(1, 100, 300, price=PRICE)
    one.reserve(2, 100, 300, price=PRICE)
    unknown, silent = Usage(usage_id="c1:1", input_tokens=7), Usage(usage_id="c1:2")
    one.fail(unknown, silent, reason="X", retryable=True)
    assert calls(one.memory) == [(7, 3200, True), (0, 0, True)]


def test_a_turn_over_its_budget_keeps_what_it_has_said_and_the_next_one_starts() -> None:
    one = run(tokens=1000)
    follower = job("b", policy=BUSY_POLICY_ENQUEUE)
    one.memory.apply(lambda d: begin(d, follower, TIMING))
    ended = one.fail(
        usage("c1:1", 999),
        reason="TURN_BUDGET_SPENT",
        over_budget=True,
        text="So far",
    ).finished
    assert ended.outcome.state == TURN_STATE_OVER_BUDGET
    assert (ended.outcome.text, ended.outcome.reason) == ("So far", "TURN_BUDGET_SPENT")
    assert (ended.answer.text, ended.answer.partial) == ("So far", True)
    assert [spent.input_tokens for spent in ended.outcome.usage] == [999]
    assert one.memory.session is not None
    assert one.memory.session.session.active_turn_id == follower.turn_id


@pytest.mark.parametrize(
    ("own", "granted"),
    [(0, 900), (1500, 900), (500, 400), (300, "TURN_BUDGET_SPENT")],
)
def test_the_smaller_of_two_budgets_counts(own: int, granted: int | str) -> None:
    assert in_session(1000, own).reserve(1, 100, 5000) == granted


def test_a_budget_of_tokens_counts_no_money() -> None:
    one = in_session(1000, own=1000)
    one.reserve(1, 100, 500, price=PRICE)
    one.reserve(2, 100, 100, price=PRICE, usage=[usage("c1:1", 90, 180)])
    assert calls(one.memory) == [(90, 0, True), (200, 0, False)]
    assert one.memory.session is not None
    assert one.memory.session.session.spending == Spending(tokens=90, reserved_tokens=200)


def test_a_session_over_its_budget_is_named_by_the_reason() -> None:
    one = in_session(1000, own=2000)
    one.reserve(1, 100, 900)
    assert one.reserve(2, 100, 900) == "SESSION_BUDGET_SPENT"


def test_what_a_cancelled_turn_has_reserved_counts_until_its_worker_tells_better() -> None:
    one = in_session(1000)
    one.reserve(1, 100, 500)
    memory = one.memory
    memory.apply(lambda d: t.cancel(d, A, "x", TIMING))
    memory.apply(lambda d: finish_stop(d, A, "So", TIMING))
    assert spending(memory) == (600, 0)
    row = memory.turns[A].finished
    memory.apply(lambda d: archived(d, row, TIMING))
    assert memory.session is not None
    assert memory.turns[A].phase == STUB
    before = memory.session.session.revision
    for _ in range(2):
        one.settle(usage("c1:1", 107))
        assert spending(memory) == (107, 0)
    # The archive hears of it, as its copy of the session says otherwise.
    assert memory.session.session.revision > before
    assert isinstance(memory.facts[-1], SessionChanged)
    assert memory.facts[-1].session.spending.tokens == 107


def test_an_outcome_that_the_archive_had_first_counts_beside_what_was_reserved_here() -> None:
    one = in_session(10_000)
    one.reserve(1, 100, 500)
    row = TurnFinished(job=one.memory.turns[A].job)
    row.outcome.state, row.outcome.fence = TURN_STATE_COMPLETED, one.fence + 1
    row.outcome.usage.append(usage("other:1", 70))
    one.memory.apply(lambda d: archived(d, row, TIMING))
    assert spending(one.memory) == (670, 0)


def test_a_provisional_outcome_counts_once() -> None:
    one = in_session(10_000)
    one.memory.turns[A].provisional = True
    one.reserve(1, 100, 500)
    told = usage("c1:1", 130)
    ending = Ending(state=TURN_STATE_COMPLETED, text="So.", usage=[told])
    finished = one.memory.apply(lambda d: t.complete(d, one.hold, ending, 0, TIMING)).finished
    assert spending(one.memory) == (130, 0)
    one.memory.apply(lambda d: archived(d, finished, TIMING))
    assert spending(one.memory) == (130, 0)


def test_a_session_that_only_its_job_remembers_has_nothing_reserved() -> None:
    left = job("a")
    left.session.budget.tokens = 1000
    left.session.spending.CopyFrom(Spending(tokens=70, reserved_tokens=30))
    memory = Memory()
    memory.apply(lambda d: adopt(d, left))
    assert spending(memory) == (70, 0)


def after_a_step() -> tuple[Memory, t.Hold]:
    """Return a turn without any budget that has taken a step, and what its worker shows."""
    memory = Memory.with_session()
    memory.apply(lambda d: begin(d, job("a"), TIMING))
    memory.apply(lambda d: t.claim(d, A, t.Claimant(worker_id="w", claim_id="c1"), TIMING))
    hold = t.Hold(turn_id=A, fence=memory.turns[A].fence, claim_id="c1")
    step = FinishedStep(step="context", usage=[usage("c1:1", 30)])
    memory.apply(lambda d: t.complete_step(d, hold, step))
    return memory, hold


@pytest.mark.parametrize("provisional", [False, True])
def test_a_budget_that_is_set_after_an_outcome_counts_it_once(provisional: bool) -> None:  # noqa: FBT001 - a parameter of the test
    memory, hold = after_a_step()
    memory.turns[A].provisional = provisional
    ending = Ending(state=TURN_STATE_COMPLETED, text="So.", usage=[usage("c1:2", 100)])
    row = memory.apply(lambda d: t.complete(d, hold, ending, 0, TIMING)).finished
    assert memory.session is not None
    budget = Budget(tokens=1000)
    spent = accounted(budget, SessionStatistics(), known_here(memory.turns.values()))
    set_budget(memory.session.session, budget, spent)
    assert spending(memory) == (0 if provisional else 130, 0)
    memory.apply(lambda d: archived(d, row, TIMING))
    assert spending(memory) == (130, 0)


def test_the_steps_of_a_turn_that_were_taken_before_its_session_had_a_budget_count() -> None:
    memory, hold = after_a_step()
    assert memory.session is not None
    set_budget(memory.session.session, Budget(tokens=1000), Spending())
    ending = Ending(state=TURN_STATE_COMPLETED, usage=[usage("c1:2", 100)])
    memory.apply(lambda d: t.complete(d, hold, ending, 0, TIMING))
    assert spending(memory) == (130, 0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "again", "settle", "fail", "claim", "cancel"]),
        st.integers(1, 4),
        st.integers(0, 400),
    ),
    max_size=30,
)


@given(st.integers(300, 2000), STEPS)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_the_spending_is_the_sum_of_the_calls_and_within_the_budget(
    tokens: int, steps: list[tuple[str, int, int]]
) -> None:
    one = in_session(tokens)
    memory, claims = one.memory, 1
    for name, number, size in steps:
        turn, usage_id = memory.turns[A], f"{one.claim_id}:{number}"
        if name in ("reserve", "again"):
            one.reserve(number, size, 200)
        elif name == "settle":
            most = next((call.tokens for call in turn.calls if call.usage_id == usage_id), 0)
            one.settle(usage(usage_id, min(size, most)))
        elif name == "fail":
            one.fail(reason="X", retryable=True)
        elif name == "claim" and turn.phase in (QUEUED, LEASED) and turn.attempt < 3:
            claims += 1
            memory.now += 2 * TIMING.lease
            one = Run(memory=memory, claim_id=f"c{claims}")
        elif name == "cancel":
            memory.apply(lambda d: t.cancel(d, A, "x", TIMING))
            memory.apply(lambda d: finish_stop(d, A, "", TIMING))
        spent, reserved = spending(memory)
        assert spent == sum(call.tokens for call in memory.turns[A].calls if call.settled)
        assert spent + reserved == sum(call.tokens for call in memory.turns[A].calls) <= tokens
        assert reserved == 0 or memory.turns[A].phase in LIVE


async def test_parallel_calls_of_a_turn_never_reserve_more_than_its_budget(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, most=Budget(tokens=2000))
    held = await stack.claim(turn.turn_id)
    answers = await asyncio.gather(
        *(held.reserve(number, input_tokens=100, max_tokens=400) for number in range(12))
    )
    granted = [one.max_tokens for one in answers if isinstance(one, work.BudgetGranted)]
    assert sum(granted) + 100 * len(granted) == 2000
    refused = [one for one in answers if isinstance(one, work.BudgetRefused)]
    assert {one.reason for one in refused} == {"TURN_BUDGET_SPENT"}
    assert "has 0 of 2000 tokens left" in refused[0].explanation
    assert "2000 tokens are reserved for calls under way" in refused[0].explanation


async def test_a_request_with_another_budget_is_another_request(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, request_id="one", most=Budget(tokens=500))
    again = await user.begin(session_id, request_id="one", most=Budget(tokens=500))
    assert (again.turn_id, again.state) == (turn.turn_id, TURN_STATE_QUEUED)
    refused = await failure(user.begin(session_id, request_id="one", most=Budget(tokens=501)))
    assert reason(refused) == "REQUEST_ID_TAKEN"
    assert reason(await failure(user.begin(session_id, request_id="one"))) == "REQUEST_ID_TAKEN"


async def test_a_claim_without_a_budget_asks_for_no_reservations(stack: Stack) -> None:
    user = stack.user()
    turn = await user.begin((await user.create()).session_id)
    assert not (await stack.claim(turn.turn_id)).claim.budgeted


async def test_twenty_turns_at_once_never_reserve_more_than_their_session_has(
    two_replicas: Stack,
) -> None:
    stack, user = two_replicas, two_replicas.user()
    session_id = (
        await user.create(mode=SESSION_MODE_SOCRATIC, budget=Budget(tokens=10_000))
    ).session_id
    first = await user.begin(session_id)
    held = [await stack.claim(first.turn_id)]
    for _ in range(9):  # each has an analysis that runs beside
        await user.begin(session_id, policy=BUSY_POLICY_ENQUEUE)
    await wait_until(lambda: len(side_jobs(stack)) == 10, SOON)
    for number, job_ in enumerate(side_jobs(stack)):
        held.append(await stack.worker(number % 2).claimed(job_))
    answers = await asyncio.gather(
        *(one.reserve(call, input_tokens=100, max_tokens=700) for one in held for call in (1, 2))
    )
    granted = [one.max_tokens for one in answers if isinstance(one, work.BudgetGranted)]
    assert len(answers) == 22
    assert sum(granted) + 100 * len(granted) <= 10_000
    shown = (await user.get(session_id)).spending
    assert shown.reserved_tokens == sum(granted) + 100 * len(granted) > 9_000
    for one in held:
        await one.fail(retryable=False, usage=[usage(f"{one.claim_id}:1", 90)])
    spent = (await user.get(session_id)).spending
    assert (spent.tokens, spent.reserved_tokens) == (90 * len(held), 0)


def side_jobs(stack: Stack) -> list[RunTurn]:
    """Return each once: what is not claimed soon is published again."""
    return list(
        {job.turn_id: job for queue, job in stack.jobs.seen if "analysis" in queue}.values()
    )


async def test_the_same_reservation_at_two_replicas_is_one(two_replicas: Stack) -> None:
    stack, user = two_replicas, two_replicas.user()
    session_id = (await user.create(budget=Budget(tokens=1000))).session_id
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    other = Held(stack, stack.replicas[1], held.turn_id, held.claim_id, held.claim)
    call = {"input_tokens": 100, "max_tokens": 500}
    answers = await asyncio.gather(
        *(one.reserve(1, **call) for one in (held, other, held, other, held, other))
    )
    assert {one.max_tokens for one in answers if isinstance(one, work.BudgetGranted)} == {500}
    assert (await user.get(session_id)).spending == Spending(reserved_tokens=600)


async def test_in_a_session_whose_budget_is_spent_no_turn_begins(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(budget=Budget(tokens=1000))).session_id
    turn = await user.begin(session_id, request_id="first")
    held = await stack.claim(turn.turn_id)
    await held.complete("So.", usage=[usage(f"{held.claim_id}:1", 1003)])
    error = await failure(user.begin(session_id))
    assert (error.code(), reason(error)) == (StatusCode.RESOURCE_EXHAUSTED, "SESSION_BUDGET_SPENT")
    (violation,) = detail(error, QuotaFailure).violations
    assert violation.subject == "session_budget"
    assert "1003 of 1000 tokens" in violation.description
    assert (await user.begin(session_id, request_id="first")).turn_id == turn.turn_id
    raised = await user.update(session_id, budget=Budget(tokens=1004))
    assert raised.spending == Spending(tokens=1003)
    assert (await user.begin(session_id)).state == TURN_STATE_QUEUED


async def test_what_a_session_has_spent_comes_back_from_the_archive(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(budget=Budget(tokens=1000))).session_id
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    await held.reserve(1, input_tokens=100, max_tokens=300)
    await held.complete("So.", usage=[usage(f"{held.claim_id}:1", 150)])
    await stack.archived(turn.turn_id)
    second = await user.begin(session_id)
    lost = await stack.claim(second.turn_id)
    await lost.reserve(1, input_tokens=100, max_tokens=300)
    await stack.redis.flushall()
    back = await user.get(session_id)
    assert (back.budget.tokens, back.spending) == (1000, Spending(tokens=150))
    # The worker goes on, and tells again what it knows.
    again = await stack.worker().claimed(await stack.jobs.next(second.turn_id), lost.claim_id)
    told = [usage(f"{lost.claim_id}:1", 120)]
    granted = await again.reserve(2, input_tokens=100, max_tokens=5000, usage=told)
    assert granted == work.BudgetGranted(max_tokens=1000 - 150 - 120 - 100)


async def test_a_session_record_that_is_lost_alone_counts_what_its_turns_still_say(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create(budget=Budget(tokens=1000))).session_id
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    await held.reserve(1, input_tokens=100, max_tokens=300)
    await held.reserve(2, input_tokens=10, max_tokens=20, usage=[usage(f"{held.claim_id}:1", 40)])
    await wait_until(lambda: turn.turn_id in stack.archive.accepted, SOON)
    await stack.forget(session_id)
    assert (await user.get(session_id)).spending == Spending(tokens=40, reserved_tokens=30)


async def test_an_outcome_that_is_archived_while_its_session_comes_back_counts_once(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create(budget=Budget(tokens=1000))).session_id
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    told = [usage(f"{held.claim_id}:1", 150)]
    row = (await held.complete("So.", publish=False, usage=told)).finished
    await wait_until(lambda: turn.turn_id in stack.archive.accepted, SOON)
    with stack.archiver.paused():
        stack.archive.before_statistics = lambda: stack.archive.keep(row)
        await stack.redis.flushall()
        await user.get(session_id)
    await stack.archiver.publish(stack.bus, row)
    await stack.archived(turn.turn_id)
    assert (await user.get(session_id)).spending == Spending(tokens=150)


async def test_a_budget_that_is_set_later_counts_what_was_consumed_before(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    first = await user.begin(session_id)
    held = await stack.claim(first.turn_id)
    await held.complete("So.", usage=[usage(f"{held.claim_id}:1", 150, 30)])
    await stack.archived(first.turn_id)
    second = await user.begin(session_id)
    held = await stack.claim(second.turn_id)
    told = [usage(f"{held.claim_id}:1", 50, 10)]
    response = await held.complete("So.", publish=False, usage=told)
    # The archive has it, and the store has not heard of that.
    stack.archive.finished[second.turn_id] = response.finished
    budget = Budget(tokens=1000, cost_micros=500, currency="USD")
    bounded = await user.update(session_id, budget=budget)
    assert (bounded.budget, bounded.spending) == (budget, Spending(tokens=200, cost_micros=40))
    in_euro = Budget(cost_micros=500, currency="EUR")
    assert (await user.update(session_id, budget=in_euro)).spending == Spending(tokens=200)
    free = await user.update(session_id, budget=None)
    assert not free.HasField("budget")
    assert not free.HasField("spending")


async def test_a_branch_has_its_parents_budget_and_has_spent_nothing_of_it(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(budget=Budget(tokens=1000))).session_id
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    response = await held.complete("So.", usage=[usage(f"{held.claim_id}:1", 150)])
    await stack.archived(turn.turn_id)
    branch = await user.branch(session_id, response.finished.answer.message_id)
    assert (branch.budget.tokens, branch.spending) == (1000, Spending())


async def test_an_installation_may_have_budgets_for_who_names_none(
    valkey_server: RedisServer,
) -> None:
    defaults = BudgetDefaults(turn_tokens=700, session_tokens=1000, session_cost_micros=5)
    async with session_stack(valkey_server.url, budget=defaults) as stack:
        user = stack.user()
        created = await user.create()
        standing = (await user.get_or_create(budget=Budget(tokens=5))).session
        turn = await user.begin(created.session_id)
        job_ = await stack.jobs.next(turn.turn_id)
    assert created.budget == Budget(tokens=1000, cost_micros=5, currency="USD")
    assert (standing.budget.tokens, job_.budget) == (5, Budget(tokens=700))


@pytest.mark.parametrize("wrong", [{"turn_tokens": -1}, {"currency": "dollars"}])
def test_defaults_that_make_no_sense_are_refused_at_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSettings, match="MAIEUTIC_BUDGET_"):
        BudgetDefaults(**wrong)
