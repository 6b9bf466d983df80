"""The agent that answers questions, from the session's documents where there are some."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from maieutic.v1.turn_service_pb2 import Usage
from services.agents.agents.citations import Cited, Sources, cited, fenced
from services.agents.agents.loop import LoopOptions, ModelLoop
from services.agents.agents.tools import SEARCHING, DirectTools
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Delta,
    Model,
    ModelPassage,
    ModelRequest,
)
from services.agents.prompts import Prompt, load_prompt
from services.runtime import names, telemetry

STEP = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPrompts:
    """What the agent tells its model, with and without documents."""

    grounded: Prompt
    ungrounded: Prompt


def direct_prompts() -> DirectPrompts:
    """Read the prompts of the present version."""
    return DirectPrompts(
        grounded=load_prompt("direct", 2), ungrounded=load_prompt("direct_without_documents", 2)
    )


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

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Answer the last message."""
        sources, given = Sources(), tuple[ModelPassage, ...]()
        if context.document_ids:
            yield SEARCHING
            question = context.messages[-1].text
            given = sources.add(await self._tools.passages(context, question))
        text, usage = list[str](), list[Usage]()
        request, prompt = self._request(context, given), self._prompt(context)
        tools = self._tools.of(context, sources)
        asking = self._loop.run(request, prompt=prompt.label, tools=tools)
        async with aclosing(asking) as events:
            async for event in events:
                if isinstance(event, Usage):
                    usage.append(event)
                    continue
                if isinstance(event, Delta):
                    text.append(event.text)
                yield event
        whole = "".join(text)
        checked = _counted(cited(whole, sources.passages))
        yield Answer(text=whole, citations=checked.citations, usage=tuple(usage))

    def _prompt(self, context: AgentContext) -> Prompt:
        return self._prompts.grounded if context.document_ids else self._prompts.ungrounded

    def _request(self, context: AgentContext, given: tuple[ModelPassage, ...]) -> ModelRequest:
        return ModelRequest(
            turn_id=context.turn_id,
            step=STEP,
            system=self._prompt(context).text,
            messages=context.messages,
            passages=given,
            grounding=fenced(given),
        )


def _counted(checked: Cited) -> Cited:
    counter = telemetry.current().counter(names.CITATIONS)
    for outcome, count in (
        ("supported", len(checked.citations)),
        ("unsupported", checked.unsupported),
    ):
        if count:
            counter.add(count, {names.CITATION_OUTCOME: outcome})
    return checked
