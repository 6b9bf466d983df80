"""An agent that says what is wrong with a text."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from importlib.resources import files

from services.agents.extension import (
    AgentContext,
    AgentEvent,
    AgentParts,
    ModelRequest,
    Notice,
    prompts_in,
    summary_of,
)


class Reviewer:
    """Reviews what the user says; one instance serves every turn."""

    def __init__(self, parts: AgentParts) -> None:
        self._parts = parts
        self._prompt = prompts_in("acme", files("acme_maieutic.prompts"))["reviewer"]

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Show what is being done, then what the model says; the last event is the answer."""
        yield Notice(code="REVIEWING", text="Reading your text")
        request = ModelRequest(
            turn_id=context.turn_id,
            step="reviewer",
            system=self._prompt.text,
            messages=context.messages,
            summary=summary_of(context),
            left_out=context.left_out,
        )
        answer = self._parts.answer(context, request, prompt=self._prompt.label)
        async with aclosing(answer) as events:
            async for event in events:
                yield event
