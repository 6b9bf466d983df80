"""A scripted model whose calls end only once they may."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.agents.adapters.scripted import Script, ScriptedModel
from services.agents.ports import ModelEvent, ModelRequest, ModelUsage


class HeldModel(ScriptedModel):
    """Says all that it has to say, and comes to an end only once it may."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.going = asyncio.Event()
        self.going.set()
        self.held_at = ""
        """Only calls are held whose last message contains this."""
        self.held = 0
        """How many calls are held now."""
        self.told = ""
        """What tools have brought, as the last call was told."""

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        self.told = "".join(one.text for done in request.rounds for one in done.results)
        async with super().stream(request) as events:
            held = self.held_at in request.messages[-1].text
            yield self._held(events) if held else events

    async def _held(self, events: AsyncIterator[ModelEvent]) -> AsyncIterator[ModelEvent]:
        async for event in events:
            if isinstance(event, ModelUsage):
                self.held += 1
                try:
                    await self.going.wait()
                finally:
                    self.held -= 1
            yield event
