"""Any model, with what its calls cost; what they consume is noted in their turns' accounts."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from time import monotonic

from services.agents.accounts import Account, Accounts, usage_of
from services.agents.ports import Model, ModelEvent, ModelRequest, ModelUsage
from services.agents.prices import PriceTable


class MeteredModel:
    """See `ports.Model`; says also what a call costs."""

    def __init__(self, model: Model, *, prices: PriceTable, accounts: Accounts) -> None:
        self._model = model
        self._prices = prices
        self._accounts = accounts

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call."""
        account = self._accounts.of(request.turn_id)
        async with (
            self._model.stream(request) as events,
            aclosing(self._metered(events, request, account)) as metered,
        ):
            yield metered

    async def _metered(
        self, events: AsyncIterator[ModelEvent], request: ModelRequest, account: Account | None
    ) -> AsyncGenerator[ModelEvent, None]:
        usage_id, started = account.next_id() if account else "", monotonic()
        async for event in events:
            if not isinstance(event, ModelUsage):
                yield event
                continue
            consumed = replace(event, usage_id=usage_id, cost=self._prices.cost(event))
            if account is not None:
                # Noted before anybody hears of it: whoever is stopped then has consumed it.
                account.note(usage_of(consumed, request.step, "", monotonic() - started))
            yield consumed
