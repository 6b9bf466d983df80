"""Any model, with what its calls cost: within their turns' budgets, and noted in their accounts."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import replace
from time import monotonic

from services.agents.accounts import Account, Accounts, usage_of
from services.agents.budget import CallBounds
from services.agents.ports import Model, ModelEvent, ModelRequest, ModelUsage
from services.runtime import names, telemetry

MICROS = 1_000_000


class MeteredModel:
    """See `ports.Model`; says also what a call costs, and raises CallRefused."""

    def __init__(self, model: Model, *, bounds: CallBounds, accounts: Accounts) -> None:
        self._model = model
        self._bounds = bounds
        self._accounts = accounts

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call, if the turn's budgets allow it; it may then say less than it asks for."""
        account = self._accounts.of(request.turn_id)
        with account.call() if account is not None else nullcontext("") as usage_id:
            if account is not None and account.budget is not None:
                most = await account.budget.reserved(self._bounds.of(request, usage_id))
                request = replace(request, max_tokens=most)
            async with (
                self._model.stream(request) as events,
                aclosing(self._metered(events, request, usage_id, account)) as metered,
            ):
                yield metered

    async def _metered(
        self,
        events: AsyncIterator[ModelEvent],
        request: ModelRequest,
        usage_id: str,
        account: Account | None,
    ) -> AsyncGenerator[ModelEvent, None]:
        started = monotonic()
        consumed: ModelUsage | None = None
        try:
            async for event in events:
                if not isinstance(event, ModelUsage):
                    yield event
                    continue
                cost = self._bounds.prices.cost(event)
                consumed = replace(event, usage_id=usage_id, cost=cost)
                if account is not None:
                    # Noted before anybody hears of it: whoever is stopped then has consumed it.
                    account.note(usage_of(consumed, request.step, "", monotonic() - started))
                yield consumed
        finally:
            # The last word counts, however the call ends.
            if consumed is not None:
                _count(consumed, agent=request.step)


def _count(consumed: ModelUsage, *, agent: str) -> None:
    attributes = {names.MODEL_NAME: consumed.model, names.MODEL_AGENT: agent}
    if (cost := consumed.cost) is None:
        telemetry.current().counter(names.MODEL_UNPRICED).add(1, attributes)
        return
    attributes[names.CURRENCY] = cost.currency
    telemetry.current().counter(names.MODEL_COST).add(cost.micros / MICROS, attributes)
