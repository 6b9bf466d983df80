"""A scripted model that tells what it was asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.agents.adapters.scripted import Script, ScriptedModel
from services.agents.ports import ModelEvent, ModelRequest, ToolResult


class Listening:
    """A scripted model that keeps what it was asked."""

    def __init__(self, **script: Any) -> None:
        self.model = ScriptedModel(Script(**script))
        self.asked: list[ModelRequest] = []

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        self.asked.append(request)
        async with self.model.stream(request) as events:
            yield events

    @property
    def told(self) -> list[tuple[ToolResult, ...]]:
        """The results of each round, as the last call was told them."""
        return [one.results for one in self.asked[-1].rounds]
