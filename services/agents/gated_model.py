"""Any model, with one gate for all turns of the worker: who is told to wait speaks for them all."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.agents.errors import ModelOverloaded
from services.agents.ports import Model, ModelEvent, ModelRequest

LONGEST_WAIT = 2.0
"""Seconds that a call waits for the gate; for longer its turn is handed back to the clock."""
LONGEST_CLOSED = 60.0
"""Seconds after which the model is asked again whatever it said: one that names a day would
otherwise stop the worker for a day."""
SPREAD = 0.2
"""Of the wait, at most so much longer, so that not all come at the same moment."""


class GatedModel:
    """See `ports.Model`. A model that names a time to wait is left alone until then."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._open_at = 0.0
        """On the loop's clock."""

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call once the gate is open; raises ModelOverloaded if that takes long."""
        await self._pass()
        try:
            async with self._model.stream(request) as events:
                yield events
        except ModelOverloaded as error:
            self._close(error.retry_after)
            raise

    async def _pass(self) -> None:
        while (left := self._open_at - asyncio.get_running_loop().time()) > 0:
            if left > LONGEST_WAIT:
                raise ModelOverloaded("The model has asked to be left alone.", retry_after=left)
            await asyncio.sleep(left * (1 + random.uniform(0, SPREAD)))  # noqa: S311 - no secret

    def _close(self, seconds: float | None) -> None:
        until = asyncio.get_running_loop().time() + min(seconds or 0.0, LONGEST_CLOSED)
        self._open_at = max(self._open_at, until)
