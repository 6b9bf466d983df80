"""The agent that answers questions, from the session's documents where there are some."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from services.agents.agents import known
from services.agents.agents.answering import answered
from services.agents.agents.citations import Sources, fenced
from services.agents.agents.handing_on import HandedOn, HandingOn
from services.agents.agents.loop import LoopOptions, ModelLoop
from services.agents.agents.tools import SEARCHING, DirectTools
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Model,
    ModelPassage,
    ModelRequest,
)
from services.agents.prompts import Prompt

STEP = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPrompts:
    """What the agent tells its model, with and without documents."""

    grounded: Prompt
    ungrounded: Prompt


class DirectAgent:
    """Searches, asks the model, lets it look further, and cites what the answer refers to."""

    def __init__(
        self,
        model: Model,
        tools: DirectTools,
        prompts: DirectPrompts,
        options: LoopOptions,
    ) -> None:
        self._loop = ModelLoop(model, options)
        self._tools = tools
        self._prompts = prompts
        self._handing_on = HandingOn()

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Answer the last message."""
        sources, given = Sources(), tuple[ModelPassage, ...]()
        if context.document_ids:
            yield SEARCHING
            question = context.messages[-1].text
            given = sources.add(await self._tools.passages(context, question))
        request, prompt = self._request(context, given), self._prompt(context)
        handed_on = HandedOn()
        tools = [*self._tools.of(context, sources), *self._handing_on.of(handed_on)]
        asking = self._loop.run(request, prompt=prompt.label, tools=tools)
        async with aclosing(answered(asking, sources)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    event = replace(event, hand_on=handed_on.asked)  # noqa: PLW2901 - the same one
                yield event

    def _prompt(self, context: AgentContext) -> Prompt:
        return self._prompts.grounded if context.document_ids else self._prompts.ungrounded

    def _request(self, context: AgentContext, given: tuple[ModelPassage, ...]) -> ModelRequest:
        return ModelRequest(
            turn_id=context.turn_id,
            step=STEP,
            system=self._prompt(context).text,
            messages=context.messages,
            summary=known.summary(context),
            left_out=context.left_out,
            passages=given,
            grounding=fenced(given),
        )
