"""What a call of a model may consume at most, and whether its turn's budgets allow that."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from maieutic.session.v1.turn_work_service_pb2 import (
    BudgetRefused,
    ReserveBudgetRequest,
    ReserveBudgetResponse,
    TokenPrice,
)
from services.agents.errors import CallRefused
from services.agents.ports import ModelRequest
from services.agents.prices import PriceTable
from services.agents.tokens import estimated_tokens

UNLIMITED_ANSWER = 8192
"""Tokens: what a model without a limit of its own is taken to say at most, and is held to then."""

Reserve: TypeAlias = Callable[[ReserveBudgetRequest], Awaitable[ReserveBudgetResponse]]
"""Asks under the run's claim, and returns the answer once it stands."""


class TurnBudget:
    """The budgets that bound a run, which are asked before each of its calls."""

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self.asked: list[str] = []
        """The calls for which something may be reserved."""
        self.refused: BudgetRefused | None = None
        """Why the run could not go on, whatever its agent has made of that."""

    async def reserved(self, call: ReserveBudgetRequest) -> int:
        """Return how many tokens the call may say; raises CallRefused."""
        self.asked.append(call.usage_id)
        response = await self._reserve(call)
        if response.HasField("refused"):
            self.asked.remove(call.usage_id)
            self.refused = response.refused
            raise CallRefused(response.refused.explanation)
        return response.granted.max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBounds:
    """What calls may consume: by what they are, and what the model is that says nothing else."""

    prices: PriceTable
    model: str
    max_tokens: int = UNLIMITED_ANSWER

    def of(self, request: ModelRequest, usage_id: str) -> ReserveBudgetRequest:
        """Return what the call reads and says at most, and what that costs."""
        model = request.model or self.model
        call = ReserveBudgetRequest(
            usage_id=usage_id,
            model=model,
            input_tokens=estimated_tokens(request),
            max_tokens=min(request.max_tokens or self.max_tokens, self.max_tokens),
        )
        if (price := self.prices.of(model)) is not None:
            dearest = max(price.input, price.cached, price.cache_write)
            told = TokenPrice(input=dearest, output=price.output, currency=self.prices.currency)
            call.price.CopyFrom(told)
        return call
