"""What a model's calls leave in traces and metrics."""

import pytest
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from services.agents.adapters.scripted import MODEL_NAME, Script, ScriptedModel
from services.agents.errors import ModelUnavailable
from services.agents.ports import Author, Model, ModelMessage, ModelRequest
from services.agents.traced_model import TracedModel
from services.runtime import names, telemetry
from tests.recorded import recording, span_id

SECRET = "hunter2"


def traced(**script: object) -> Model:
    return TracedModel(ScriptedModel(Script(**script)), provider="scripted")  # type: ignore[arg-type]


async def said(model: Model) -> None:
    """Read a whole answer; the running span stays the caller's."""
    message = ModelMessage(author=Author.USER, text=f"one two {SECRET}")
    outside = get_current_span()
    request = ModelRequest(turn_id="t", system="", messages=(message,))
    async with model.stream(request) as events:
        async for _ in events:
            assert get_current_span() is outside


async def test_a_call_is_a_span_with_its_model_and_tokens() -> None:
    async with recording() as recorded:
        with telemetry.span("run turn"):
            await said(traced(text="alpha beta"))
    call, outer = recorded.exporter.get_finished_spans()
    assert call.parent is not None
    assert call.parent.span_id == span_id(outer)
    assert (call.name, call.kind) == (f"chat {MODEL_NAME}", SpanKind.CLIENT)
    assert call.attributes is not None
    assert call.attributes[names.MODEL_PROVIDER] == "scripted"
    assert call.attributes[names.INPUT_TOKENS] == 3
    assert call.attributes[names.OUTPUT_TOKENS] == 2
    for text in ("alpha", SECRET):
        assert text not in call.to_json()


async def test_calls_are_counted_in_tokens_and_seconds() -> None:
    async with recording() as recorded:
        for _ in range(2):
            await said(traced(text="alpha beta"))
        tokens = recorded.points(names.MODEL_TOKENS, names.TOKEN_TYPE)
        assert {kind: point.sum for (kind,), point in tokens.items()} == {"input": 6, "output": 4}
        (took,) = recorded.points(names.MODEL_DURATION, names.MODEL_NAME).items()
        assert (took[0], took[1].count) == ((MODEL_NAME,), 2)
        (first,) = recorded.points(names.MODEL_FIRST_TEXT).values()
        assert first.count == 2


async def test_a_call_that_fails_is_a_failed_span_and_counted_by_its_error() -> None:
    async with recording() as recorded:
        with pytest.raises(ModelUnavailable):
            await said(traced(fail="unavailable"))
        (call,) = recorded.exporter.get_finished_spans()
        assert (call.status.status_code, call.status.description) == (
            StatusCode.ERROR,
            "ModelUnavailable",
        )
        assert set(recorded.points(names.MODEL_DURATION, names.ERROR_TYPE)) == {
            ("ModelUnavailable",)
        }


async def test_a_call_that_is_left_early_ends_its_span() -> None:
    message = ModelMessage(author=Author.USER, text="Why?")
    request = ModelRequest(turn_id="t", system="", messages=(message,))
    async with recording() as recorded:
        async with traced(text="a b c").stream(request) as events:
            await anext(events)
        (call,) = recorded.exporter.get_finished_spans()
    assert call.status.status_code is StatusCode.UNSET
