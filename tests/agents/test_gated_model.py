"""One gate for all turns of a worker: who is told to wait speaks for them all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.agents.errors import ModelOverloaded, ModelUnavailable
from services.agents.failures import POSTPONED_FROM, Postponement, postponement_of
from services.agents.gated_model import GatedModel
from services.agents.ports import ModelEvent, ModelRequest, ModelUsage, TextDelta

REQUEST = ModelRequest(turn_id="t", system="", messages=())


class Limited:
    """A model that refuses while it is told to, before its answer or in the middle of it."""

    def __init__(self) -> None:
        self.calls = 0
        self.refusing: Exception | None = None
        self.breaking: Exception | None = None

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        self.calls += 1
        if self.refusing is not None:
            raise self.refusing
        yield self._events()

    async def _events(self) -> AsyncIterator[ModelEvent]:
        yield TextDelta(text="Yes.")
        if self.breaking is not None:
            raise self.breaking
        yield ModelUsage(model="limited", input_tokens=1, output_tokens=1)


async def ask(gated: GatedModel) -> int:
    async with gated.stream(REQUEST) as events:
        return len([event async for event in events])


@pytest.mark.parametrize("moment", ["refusing", "breaking"])
async def test_a_long_wait_holds_for_every_turn_and_nobody_asks_again(moment: str) -> None:
    model = Limited()
    gated = GatedModel(model)
    setattr(model, moment, ModelOverloaded("too much", retry_after=86_400.0))
    with pytest.raises(ModelOverloaded):
        await ask(gated)
    setattr(model, moment, None)
    for _ in range(50):
        with pytest.raises(ModelOverloaded) as refused:
            await ask(gated)
        assert 0 < (refused.value.retry_after or 0) <= 60
    assert model.calls == 1


async def test_a_short_wait_is_waited_for_and_the_calls_are_made() -> None:
    model = Limited()
    gated = GatedModel(model)
    model.refusing = ModelOverloaded("too much", retry_after=0.2)
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(ModelOverloaded):
        await ask(gated)
    model.refusing = None
    assert await asyncio.gather(*(ask(gated) for _ in range(10))) == [2] * 10
    assert loop.time() - before >= 0.19  # on the clock that the gate waits on, and no upper bound
    assert model.calls == 11


@pytest.mark.parametrize(
    "error", [ModelUnavailable("broke off", retry_after=60.0), ModelOverloaded("no time named")]
)
async def test_what_concerns_one_turn_alone_closes_nothing(error: Exception) -> None:
    model = Limited()
    gated = GatedModel(model)
    model.refusing = error
    with pytest.raises(ModelUnavailable):
        await ask(gated)
    model.refusing = None
    assert await ask(gated) == 2


def test_only_a_long_wait_within_the_budget_is_no_attempt() -> None:
    def postponed(seconds: float | None, left: float) -> Postponement | None:
        return postponement_of(ModelOverloaded("too much", retry_after=seconds), left, 0.0)

    assert postponed(POSTPONED_FROM, 600.0) == Postponement(seconds=POSTPONED_FROM)
    assert postponed(POSTPONED_FROM / 2, 600.0) is None
    assert postponed(700.0, 600.0) is None
    assert postponed(None, 600.0) is None
    assert postponement_of(ModelUnavailable("broke off", retry_after=60.0), 600.0, 0.0) is None
