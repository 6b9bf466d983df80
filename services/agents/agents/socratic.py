"""The agent that helps a user to find out what they want, by asking."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from maieutic.v1.specification_pb2 import Question
from maieutic.v1.turn_service_pb2 import Findings
from services.agents.agents import known
from services.agents.agents.answering import answered
from services.agents.agents.citations import Sources
from services.agents.agents.loop import ModelLoop
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Model,
    ModelMessage,
    ModelRequest,
)
from services.agents.prompts import Prompt

STEP = "socratic"
ASK_ME = ModelMessage(author=Author.USER, text="Ask me the next question.")


class SocraticAgent:
    """Asks one question, from what is known and what conflicts; never answers for the user."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self._loop = ModelLoop(model)
        self._prompt = prompt

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Ask the next question."""
        asking = self._loop.run(self._request(context), prompt=self._prompt.label)
        async with aclosing(answered(asking, Sources())) as events:
            async for event in events:
                yield _kept(event) if isinstance(event, Answer) else event

    def _request(self, context: AgentContext) -> ModelRequest:
        messages = context.messages
        if not messages or messages[-1].author is not Author.USER:
            messages = (*messages, ASK_ME)
        return ModelRequest(
            turn_id=context.turn_id,
            step=STEP,
            system=self._prompt.text,
            messages=messages,
            summary=known.summary(context),
            left_out=context.left_out,
            sections=(
                known.specifications(context),
                known.conflicts(context),
                known.asked(context),
            ),
        )


def _kept(answer: Answer) -> Answer:
    """Return the answer as a question that the session remembers."""
    return replace(answer, findings=Findings(questions=[Question(text=answer.text)]))
