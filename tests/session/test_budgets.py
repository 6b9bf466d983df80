"""Budgets of turns: what is reserved, what is settled, and what is refused."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    TURN_STATE_OVER_BUDGET,
    TURN_STATE_QUEUED,
    Usage,
)
from services.session import transitions as t
from services.session.beginning import begin
from services.session.budgets import LEAST_ANSWER
from tests.session.drafts import TIMING, Memory, job, turn_id
from tests.session.stack import Stack, failure, reason

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

    def release(self, *told: Usage) -> None:
        self.memory.apply(lambda d: t.release(d, self.hold, 0, told))


def run(**budget: Any) -> Run:
    memory = Memory.with_session()
    new = job("a")
    new.budget.CopyFrom(Budget(**budget))
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
    one.memory.apply(
        lambda d: t.settle_budget(
            d, work.SettleBudgetRequest(turn_id=A, usage=[usage("c1:1", 130)])
        )
    )
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
