"""The agent that reads what the user has settled out of what they said."""

from collections.abc import AsyncGenerator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from maieutic.v1.specification_pb2 import Specification
from maieutic.v1.turn_service_pb2 import Findings
from services.agents.agents import known
from services.agents.agents.asking import Form
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Model,
    ModelMessage,
)
from services.agents.prompts import Prompt

STEP = "context"
EARLIER_MESSAGES = 6
"""Of the conversation before: enough to know what a short answer answers."""
MOST_AT_ONCE = 20

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$", max_length=64)]


class _Specification(BaseModel):
    model_config = ConfigDict(extra="forbid")

    category: Name
    key: Name
    value: Annotated[str, Field(min_length=1, max_length=1000)]
    confidence: Annotated[float, Field(ge=0, le=1)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    specifications: Annotated[list[_Specification], Field(max_length=MOST_AT_ONCE)]


class ContextAgent:
    """Extracts specifications; says nothing to the user."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self._form = Form(model, prompt, STEP, _Form)

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Extract what the turn's message settles. Raises ModelMalformed."""
        form, usage = await self._form.filled_in(
            context, _conversation(context), (known.specifications(context),)
        )
        found = [
            Specification(
                category=one.category, key=one.key, value=one.value, confidence=one.confidence
            )
            for one in form.specifications
        ]
        yield Answer(text="", usage=usage, findings=Findings(specifications=found))


def _conversation(context: AgentContext) -> tuple[ModelMessage, ...]:
    """Return what was said, up to the message that is looked at."""
    said = ModelMessage(author=Author.USER, text=context.text)
    earlier = context.messages
    if said in earlier:
        earlier = earlier[: len(earlier) - 1 - earlier[::-1].index(said)]
    return (*earlier[-EARLIER_MESSAGES:], said)
