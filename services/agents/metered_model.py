"""Any model, with what its calls cost."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from services.agents.ports import Model, ModelEvent, ModelRequest, ModelUsage
from services.agents.prices import PriceTable


class MeteredModel:
    """See `ports.Model`; says also what a call costs."""

    def __init__(self, model: Model, prices: PriceTable) -> None:
        self._model = model
        self._prices = prices

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call."""
        async with (
            self._model.stream(request) as events,
            aclosing(self._metered(events)) as metered,
        ):
            yield metered

    async def _metered(self, events: AsyncIterator[ModelEvent]) -> AsyncGenerator[ModelEvent, None]:
        async for event in events:
            if isinstance(event, ModelUsage):
                yield replace(event, cost=self._prices.cost(event))
            else:
                yield event
