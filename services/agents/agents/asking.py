"""What agents share: forms that a model fills in, and data that it is given."""

import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from maieutic.v1.message_pb2 import AUTHOR_AGENT, Message
from maieutic.v1.turn_service_pb2 import Usage
from services.agents.agents.loop import CUT, ModelLoop
from services.agents.errors import ModelCut, ModelMalformed
from services.agents.ports import (
    AgentContext,
    Delta,
    Model,
    ModelMessage,
    ModelPassage,
    ModelRequest,
    ModelSection,
)
from services.agents.prompts import Prompt

F = TypeVar("F", bound=BaseModel)

_BOUNDS = frozenset(
    {"pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"}
)

_NAMING = ("properties", "$defs")
"""What stands in these is called as somebody likes, also as a bound."""


class Form(Generic[F]):
    """A form that a model fills in, by the instructions of a step."""

    def __init__(self, model: Model, prompt: Prompt, step: str, fields: type[F]) -> None:
        self._model = model
        self._prompt = prompt
        self._step = step
        self._fields = fields
        self._schema = schema_of(fields)

    async def filled_in(
        self,
        context: AgentContext,
        messages: tuple[ModelMessage, ...],
        sections: tuple[ModelSection, ...],
        *,
        passages: tuple[ModelPassage, ...] = (),
        grounding: str = "",
    ) -> tuple[F, tuple[Usage, ...]]:
        """Return the form as the model fills it in, and what each call has consumed.

        Raises ModelMalformed if it does not fit, and ModelCut if it has no end.
        """
        request = ModelRequest(
            turn_id=context.turn_id,
            step=self._step,
            system=self._prompt.text,
            messages=messages,
            passages=passages,
            grounding=grounding,
            sections=sections,
            schema=self._schema,
        )
        said = await asked(self._model, request, prompt=self._prompt.label)
        try:
            return self._fields.model_validate_json(said.text), said.usage
        except ValidationError as error:
            if said.cut:
                raise ModelCut from error
            # Which field is wrong, and never what stands in it.
            places = {".".join(map(str, one["loc"])) or "the whole" for one in error.errors()}
            raise ModelMalformed(sorted(places)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a model has said."""

    text: str
    usage: tuple[Usage, ...]
    """What each call has consumed."""
    cut: bool
    """Whether it ends with the tokens of a call, before its own end."""


async def asked(model: Model, request: ModelRequest, *, prompt: str) -> Said:
    """Return what the model says."""
    async with aclosing(ModelLoop(model).run(request, prompt=prompt)) as events:
        told = [event async for event in events]
    return Said(
        text="".join(event.text for event in told if isinstance(event, Delta)),
        usage=tuple(event for event in told if isinstance(event, Usage)),
        cut=CUT in told,
    )


def schema_of(form: type[BaseModel]) -> Mapping[str, Any]:
    """Return the form's JSON Schema, without what a model need not know.

    Bounds are left out: not every API takes them, and what comes back is validated all the same.
    """
    schema: Mapping[str, Any] = _bare(form.model_json_schema())
    return {name: part for name, part in schema.items() if name != "title"}


def _bare(part: Any) -> Any:
    if isinstance(part, list):
        return [_bare(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        name: {field: _bare(one) for field, one in value.items()}
        if name in _NAMING
        else _bare(value)
        for name, value in part.items()
        if name not in _BOUNDS
    }


def said_by(message: Message) -> str:
    """Return who said a message, as a model is told."""
    return "you" if message.author == AUTHOR_AGENT else "user"


def as_data(value: object) -> str:
    """Return JSON in which no text can end the element that it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
