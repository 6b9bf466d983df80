"""Any model, with its calls as spans and metrics by the conventions for generative models."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from opentelemetry.trace import Span, SpanKind

from services.agents.errors import ModelError
from services.agents.ports import Model, ModelEvent, ModelRequest, ModelUsage, TextDelta
from services.runtime import names, telemetry


class TracedModel:
    """See `ports.Model`; records calls, and never what is said in them."""

    def __init__(self, model: Model, *, provider: str) -> None:
        """*provider* is the kind of model, as metrics show it."""
        self._model = model
        self._attributes = {names.MODEL_OPERATION: "chat", names.MODEL_PROVIDER: provider}

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call."""
        attributes = {**self._attributes, names.MODEL_AGENT: request.step}
        with _recorded(attributes) as call:
            async with (
                self._model.stream(request) as events,
                aclosing(_observed(events, call)) as observed,
            ):
                yield observed


@dataclass(slots=True, kw_only=True)
class _Call:
    """One call of the model while it lasts."""

    span: Span
    attributes: dict[str, str]
    """Of all its metrics."""
    started: float = field(default_factory=time.perf_counter)
    said: bool = False
    consumed: ModelUsage | None = None
    """As the model last told."""

    def record(self, metric: names.Metric, value: float, **more: str) -> None:
        telemetry.current().histogram(metric).record(value, {**self.attributes, **more})

    def note(self, event: ModelEvent) -> None:
        if isinstance(event, ModelUsage):
            self.consumed = event
        elif isinstance(event, TextDelta) and not self.said:
            self.said = True
            self.record(names.MODEL_FIRST_TEXT, time.perf_counter() - self.started)

    def end(self) -> None:
        """Record the call, whole or not."""
        if self.consumed is not None:
            self._tell(self.consumed)
        self.record(names.MODEL_DURATION, time.perf_counter() - self.started)

    def _tell(self, usage: ModelUsage) -> None:
        self.attributes[names.MODEL_NAME] = usage.model
        self.span.update_name(names.CHAT.format(usage.model))
        self.span.set_attribute(names.MODEL_NAME, usage.model)
        self.span.set_attribute(names.INPUT_TOKENS, usage.input_tokens)
        self.span.set_attribute(names.OUTPUT_TOKENS, usage.output_tokens)
        self.span.set_attribute(names.CACHED_TOKENS, usage.cached_tokens)
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            self.record(names.MODEL_TOKENS, count, **{names.TOKEN_TYPE: kind})


@contextmanager
def _recorded(attributes: dict[str, str]) -> Iterator[_Call]:
    name = names.CHAT.format("model")
    with telemetry.span_aside(name, kind=SpanKind.CLIENT, attributes=attributes) as span:
        call = _Call(span=span, attributes=dict(attributes))
        try:
            yield call
        except ModelError as error:
            call.attributes[names.ERROR_TYPE] = type(error).__qualname__
            raise
        finally:
            call.end()


async def _observed(
    events: AsyncIterator[ModelEvent], call: _Call
) -> AsyncGenerator[ModelEvent, None]:
    async for event in events:
        call.note(event)
        yield event
