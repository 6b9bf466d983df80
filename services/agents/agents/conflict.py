"""The agent that sees where what the user wants does not go together."""

from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from maieutic.v1.specification_pb2 import (
    CONFLICT_SEVERITY_HIGH,
    CONFLICT_SEVERITY_LOW,
    CONFLICT_SEVERITY_MEDIUM,
    CONFLICT_TYPE_CONTRADICTION,
    CONFLICT_TYPE_DUPLICATE,
    CONFLICT_TYPE_TRADE_OFF,
    Conflict,
    ConflictSeverity,
    ConflictType,
    Specification,
)
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
from services.runtime.standing import standing_specifications

STEP = "conflict"
MOST_AT_ONCE = 20
LEAST_SPECIFICATIONS = 2
COMPARE = ModelMessage(author=Author.USER, text="Which of the specifications conflict?")

TYPES: Mapping[str, ConflictType.ValueType] = MappingProxyType(
    {
        "contradiction": CONFLICT_TYPE_CONTRADICTION,
        "trade_off": CONFLICT_TYPE_TRADE_OFF,
        "duplicate": CONFLICT_TYPE_DUPLICATE,
    }
)
SEVERITIES: Mapping[str, ConflictSeverity.ValueType] = MappingProxyType(
    {
        "low": CONFLICT_SEVERITY_LOW,
        "medium": CONFLICT_SEVERITY_MEDIUM,
        "high": CONFLICT_SEVERITY_HIGH,
    }
)

Text = Annotated[str, Field(max_length=1000)]


class _Conflict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first: str
    second: str
    type: Literal["contradiction", "trade_off", "duplicate"]
    severity: Literal["low", "medium", "high"]
    explanation: Text
    suggestion: Text


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    conflicts: Annotated[list[_Conflict], Field(max_length=MOST_AT_ONCE)]


class ConflictAgent:
    """Compares specifications; says nothing to the user."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self._form = Form(model, prompt, STEP, _Form)

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Find the conflicts between what holds. Raises ModelMalformed.

        What names a specification that does not exist is left out by the session.
        """
        if len(standing_specifications(context.findings)) < LEAST_SPECIFICATIONS:
            yield Answer(text="")  # nothing to compare, and no call to pay for
            return
        form, usage = await self._form.filled_in(
            context, (COMPARE,), (known.specifications(context),)
        )
        found = Findings(conflicts=[_conflict(one) for one in form.conflicts])
        yield Answer(text="", usage=usage, findings=found)


def _conflict(seen: _Conflict) -> Conflict:
    return Conflict(
        type=TYPES[seen.type],
        severity=SEVERITIES[seen.severity],
        first=Specification(specification_id=seen.first),
        second=Specification(specification_id=seen.second),
        explanation=seen.explanation,
        suggestion=seen.suggestion,
    )
