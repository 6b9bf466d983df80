"""What runs consume reaches the accounts once, however they end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from maieutic.bus.v1.bus_pb2 import TurnUsed
from maieutic.session.v1.turn_work_service_pb2 import (
    BudgetGranted,
    ReserveBudgetRequest,
    ReserveBudgetResponse,
)
from maieutic.v1.turn_service_pb2 import TURN_STATE_FAILED, Usage
from services.agents.accounts import Account, Accounts
from services.agents.adapters.scripted import Script, ScriptedModel
from services.agents.budget import CallBounds, TurnBudget
from services.agents.errors import ModelRejected
from services.agents.metered_model import MeteredModel
from services.agents.ports import ModelEvent, ModelRequest, ModelUsage, TextDelta
from services.agents.prices import price_table
from services.agents.recorder import RecorderOptions
from services.runtime import names
from tests.fakes.workers import Office, office
from tests.recorded import recording
from tests.waiting import wait_until


async def taken(place: Office) -> list[TurnUsed]:
    """Wait until nothing runs; returns what was told besides outcomes."""
    await place.idle()
    await wait_until(lambda: place.waiting_jobs == 0)
    while place.outcomes:
        async with place.bus.consume("persist.v1", prefetch=1) as results:
            delivery = await anext(results)
            await delivery.ack()
        assert delivery.routing_key == "turn.used"
        place.used.append(TurnUsed.FromString(delivery.body))
    return place.used


async def test_a_turn_that_is_stopped_in_the_midst_of_its_answer_has_consumed_its_input() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=3, tells_input=True))
    async with office(model, recorder=RecorderOptions()) as place:
        turn_id = await place.ask("Stop me, please.")
        await place.streaming(turn_id)
        place.store.fence_off(turn_id)
        (used,) = await taken(place)
    (usage,) = used.usage
    assert (used.tenant, used.user_id, used.turn_id) == ("acme", "ada", turn_id)
    assert used.session.session_id == place.store.turns[turn_id].job.message.session_id
    assert used.claim_id == place.store.claim_ids[0]
    assert (usage.step, usage.model, usage.input_tokens) == ("direct", "scripted-1", 3)
    assert (usage.usage_id, usage.currency) == (f"{used.claim_id}:1", "USD")


async def test_a_failed_attempt_is_told_beside_the_outcome_of_the_next_one() -> None:
    failing = Script(fail="unavailable", fail_after=1, fail_times=1, tells_input=True)
    async with office(ScriptedModel(failing)) as place:
        turn_id = await place.ask("Try twice.")
        await place.failure(turn_id)
        await place.publish(place.store.turns[turn_id].job)
        outcome = (await place.finished()).outcome
        (used,) = await taken(place)
    first, second = used.usage[0], outcome.usage[0]
    assert (first.output_tokens, second.output_tokens) == (0, 9)
    assert first.usage_id.partition(":")[0] == used.claim_id
    assert second.usage_id.partition(":")[0] == place.store.claim_ids[1] != used.claim_id


async def test_the_last_failure_has_what_it_consumed_in_its_outcome_alone() -> None:
    failing = Script(fail="rejected", fail_after=2, tells_input=True)
    async with office(ScriptedModel(failing)) as place:
        await place.ask("It will not do.")
        outcome = (await place.finished()).outcome
        assert await taken(place) == []
    assert outcome.state == TURN_STATE_FAILED
    assert [usage.input_tokens for usage in outcome.usage] == [4]


async def test_a_turn_that_is_handed_back_has_consumed_what_it_read() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=2, tells_input=True))
    async with office(model, grace=2.0) as place:
        turn_id = await place.ask("Not today.")
        await place.streaming(turn_id)
        await place.stop()
        (used,) = await taken(place)
    assert [usage.input_tokens for usage in used.usage] == [2]
    assert place.store.calls["ReleaseTurn"] == 1


async def test_steps_that_an_outcome_tells_are_not_told_beside_it() -> None:
    async with office(ScriptedModel(Script(text='{"specifications": []}'))) as place:
        await place.ask("I want a boat.", steps=["context"])
        outcome = (await place.finished()).outcome
        assert await taken(place) == []
    assert [usage.step for usage in outcome.usage] == ["context"]


async def test_a_side_turn_that_fails_tells_its_finished_step_once() -> None:
    async with office(ScriptedModel(Script(text='{"specifications": []}'))) as place:
        await place.ask("I want a boat.", steps=["context", "nobody"])
        outcome = (await place.finished()).outcome
        assert await taken(place) == []
    assert outcome.reason == "NO_AGENT"
    assert [usage.step for usage in outcome.usage] == ["context"]


class HangsTheSecondTime:
    """A model that fills in a form, and then never says a word."""

    def __init__(self) -> None:
        self.calls = 0

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        self.calls += 1
        yield self._events(self.calls)

    async def _events(self, call: int) -> AsyncIterator[ModelEvent]:
        yield ModelUsage(model="slow", input_tokens=call, output_tokens=0)
        if call > 1:
            await asyncio.Event().wait()
        yield TextDelta(text='{"specifications": []}')
        yield ModelUsage(model="slow", input_tokens=call, output_tokens=1)


async def test_a_finished_step_of_a_turn_that_was_lost_is_told_under_its_id() -> None:
    """The outcome that somebody else makes may tell it, too: the archive counts it once."""
    model = HangsTheSecondTime()
    async with office(model, recorder=RecorderOptions()) as place:
        turn_id = await place.ask("I want a boat.", steps=["context:1", "context:2"])
        await wait_until(lambda: model.calls == 2)
        (step,) = place.store.turns[turn_id].steps
        place.store.fence_off(turn_id)
        (used,) = await taken(place)
    finished, stopped = used.usage
    assert finished.usage_id == step.usage[0].usage_id
    assert (stopped.input_tokens, stopped.output_tokens) == (2, 0)


class Talkative:
    """A model that tells what it consumes as it goes, and may refuse in the end."""

    def __init__(self, *, refuses: bool = False) -> None:
        self._refuses = refuses

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        yield self._events()

    async def _events(self) -> AsyncIterator[ModelEvent]:
        yield ModelUsage(model="talkative", input_tokens=5, output_tokens=1)
        yield TextDelta(text="Well.")
        yield ModelUsage(model="talkative", input_tokens=5, output_tokens=9)
        if self._refuses:
            raise ModelRejected("No.")


@pytest.mark.parametrize("refuses", [False, True])
async def test_the_last_word_of_a_call_counts_and_calls_count_one_by_one(
    refuses: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    accounts, account = Accounts(), Account("claim")
    bounds = CallBounds(prices=price_table("2026-01-01", "USD", {}), model="talkative")
    model = MeteredModel(Talkative(refuses=refuses), bounds=bounds, accounts=accounts)
    request = ModelRequest(turn_id="t", system="", messages=())
    with accounts.kept("t", account):
        for _ in range(2):
            try:
                async with model.stream(request) as events:
                    assert len([event async for event in events]) == 3
            except ModelRejected:
                assert refuses
    async with MeteredModel(Talkative(), bounds=bounds, accounts=accounts).stream(request) as late:
        assert [event.usage_id async for event in late if isinstance(event, ModelUsage)] == ["", ""]
    entries = account.besides([])
    assert [(u.usage_id, u.output_tokens) for u in entries] == [("claim:1", 9), ("claim:2", 9)]
    assert [u.usage_id for u in account.besides(entries[:1])] == ["claim:2"]


@pytest.mark.parametrize("priced", [True, False])
async def test_a_calls_cost_is_counted_once_by_model_and_agent(
    priced: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    price = {"input": "2", "output": "10", "cached": "1", "cache_write": "3"}
    prices = price_table("2026-01-01", "EUR", {"talkative": price} if priced else {})
    bounds = CallBounds(prices=prices, model="talkative")
    request = ModelRequest(turn_id="t", step="socratic", system="", messages=())
    async with recording() as recorded:
        for refuses in (False, True):
            model = MeteredModel(Talkative(refuses=refuses), bounds=bounds, accounts=Accounts())
            with suppress(ModelRejected):
                async with model.stream(request) as events:
                    assert [event async for event in events]
        labels = (names.MODEL_NAME, names.MODEL_AGENT, names.CURRENCY)
        costs = recorded.points(names.MODEL_COST, *labels)
        unpriced = recorded.points(names.MODEL_UNPRICED, *labels[:2])
    found = {key: point.value for key, point in (costs | unpriced).items()}
    # Twice five tokens in and nine out.
    whose = ("talkative", "socratic")
    assert found == ({(*whose, "EUR"): pytest.approx(0.0002)} if priced else {whose: 2})


async def granted(call: ReserveBudgetRequest) -> ReserveBudgetResponse:
    return ReserveBudgetResponse(granted=BudgetGranted(max_tokens=call.max_tokens))


async def test_what_a_call_under_way_has_told_is_not_its_last_word() -> None:
    account = Account("claim")
    account.budget = TurnBudget(granted)
    with account.call() as first:
        await account.budget.reserved(ReserveBudgetRequest(usage_id=first))
        account.note(Usage(usage_id=first, input_tokens=5))
        with account.call() as second:  # of which its model says nothing
            await account.budget.reserved(ReserveBudgetRequest(usage_id=second))
            assert account.reserved_ended() == []
        assert account.reserved_ended() == [Usage(usage_id=second)]
    assert account.reserved_ended() == [
        Usage(usage_id=first, input_tokens=5),
        Usage(usage_id=second),
    ]
    assert account.reserved_ended(besides=[Usage(usage_id=second)]) == account.besides([])
