"""The agent that reads what the user has settled out of what they said."""

from collections.abc import AsyncGenerator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from maieutic.v1.specification_pb2 import Specification
from maieutic.v1.turn_service_pb2 import Findings
from services.agents.agents import known
from services.agents.agents.asking import filled_in, schema_of
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
        self._model = model
        self._prompt = prompt
        self._schema = schema_of(_Form)

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Extract what the turn's message settles. Raises ModelMalformed."""
        request = ModelRequest(
            turn_id=context.turn_id,
            step=STEP,
            system=self._prompt.text,
            messages=_conversation(context),
            sections=(known.specifications(context),),
            schema=self._schema,
        )
        form, usage = await filled_in(self._model, request, _Form, prompt=self._prompt.label)
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
