"""What agents share: one call of the model, as a stream or as a form that it fills in."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from pydantic import BaseModel, ValidationError

from maieutic.v1.turn_service_pb2 import Usage
from services.agents.errors import ModelMalformed
from services.agents.ports import Delta, Model, ModelRequest, ModelUsage, Notice, TextDelta

CUT = Notice(code="ANSWER_CUT", text="The answer is longer than may be said at once: ask to go on")

F = TypeVar("F", bound=BaseModel)

_BOUNDS = frozenset(
    {"pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"}
)


async def streamed(
    model: Model, request: ModelRequest, *, prompt: str
) -> AsyncGenerator[Delta | Notice | Usage, None]:
    """Yield the answer's text as it comes, and what the call consumed as the last."""
    started = monotonic()
    async with model.stream(request) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                yield Delta(text=event.text)
                continue
            if event.cut:
                yield CUT
            yield usage_of(event, request.step, prompt, monotonic() - started)


async def filled_in(
    model: Model, request: ModelRequest, form: type[F], *, prompt: str
) -> tuple[F, Usage]:
    """Return the form as the model fills it in; raises ModelMalformed if it does not fit.

    *request* asks for the form's schema.
    """
    text, usage = "", Usage()
    async with aclosing(streamed(model, request, prompt=prompt)) as events:
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            elif isinstance(event, Usage):
                usage = event
    try:
        return form.model_validate_json(text), usage
    except ValidationError as error:
        # Which field is wrong, and never what stands in it.
        places = {".".join(map(str, one["loc"])) or "the whole" for one in error.errors()}
        raise ModelMalformed(sorted(places)) from error


def usage_of(consumed: ModelUsage, step: str, prompt: str, seconds: float) -> Usage:
    """Return what a call consumed, as turns account for it."""
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    usage = Usage(
        step=step,
        model=consumed.model,
        input_tokens=consumed.input_tokens,
        output_tokens=consumed.output_tokens,
        cached_tokens=consumed.cached_tokens,
        cache_write_tokens=consumed.cache_write_tokens,
        duration=duration,
        prompt=prompt,
    )
    if (cost := consumed.cost) is not None:
        usage.cost_micros, usage.currency = cost.micros, cost.currency
        usage.price_date = cost.price_date
    return usage


def schema_of(form: type[BaseModel]) -> Mapping[str, Any]:
    """Return the form's JSON Schema, without what a model need not know.

    Bounds are left out: not every API takes them, and what comes back is validated all the same.
    """
    return {name: _bare(part) for name, part in form.model_json_schema().items() if name != "title"}


def _bare(part: Any) -> Any:
    if isinstance(part, list):
        return [_bare(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {name: _bare(one) for name, one in part.items() if name not in _BOUNDS}


def as_data(value: object) -> str:
    """Return JSON in which no text can end the element that it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
