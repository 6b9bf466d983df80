"""What every adapter of the Model port does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from services.agents.adapters.claude import claude
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.adapters.offline import OfflineModel
from services.agents.adapters.scripted import Script, ScriptedModel
from services.agents.errors import ModelError
from services.agents.ports import (
    Author,
    Model,
    ModelEvent,
    ModelMessage,
    ModelPassage,
    ModelRequest,
    ModelRound,
    ModelTool,
    ModelUsage,
    ModelWait,
    TextDelta,
    ToolResult,
)
from services.agents.traced_model import TracedModel
from tests.emulators.anthropic import anthropic_emulator
from tests.emulators.anthropic_plan import Call, Rule


@asynccontextmanager
async def emulated_claude() -> AsyncIterator[Model]:
    async with anthropic_emulator() as emulator:
        options = ClaudeOptions(api_key="key", base_url=emulator.url)
        async with claude(options, connections=8) as model:
            yield model


MODELS: dict[str, Callable[[], AbstractAsyncContextManager[Model]]] = {
    "offline": lambda: nullcontext(OfflineModel()),
    "offline with pauses": lambda: nullcontext(OfflineModel(chunk_delay=0.001)),
    "claude": emulated_claude,
    "scripted": lambda: nullcontext(ScriptedModel()),
    "traced": lambda: nullcontext(TracedModel(ScriptedModel(), provider="scripted")),
    "scripted in chunks": lambda: nullcontext(
        ScriptedModel(Script(text="äöü " * 50, chunks=7, delay=0.001))
    ),
}
LOOK = ModelTool(name="look", description="Looks.", schema={"type": "object"})


@asynccontextmanager
async def calling_claude() -> AsyncIterator[Model]:
    async with anthropic_emulator() as emulator:
        emulator.plan = [Rule(calls=[Call(name="look"), Call(name="look")], times=1)]
        options = ClaudeOptions(api_key="key", base_url=emulator.url)
        async with claude(options, connections=10) as model:
            yield model


def calling_script() -> ScriptedModel:
    return ScriptedModel(Script(calls=[[{"name": "look", "input": {}}] * 2]))


CALLING: dict[str, Callable[[], AbstractAsyncContextManager[Model]]] = {
    "claude": calling_claude,
    "scripted": lambda: nullcontext(calling_script()),
    "traced": lambda: nullcontext(TracedModel(calling_script(), provider="scripted")),
}
PASSAGES = (
    ModelPassage(number=1, document_name="tides", text="The moon makes the tides. It is far away."),
    ModelPassage(number=2, document_name="bread", text="Yeast makes bread rise.\n\nSalt helps."),
)


@pytest.fixture(params=MODELS)
async def model(request: pytest.FixtureRequest) -> AsyncIterator[Model]:
    async with MODELS[request.param]() as opened:
        yield opened


def request_for(
    text: str, *, passages: tuple[ModelPassage, ...] = (), earlier: tuple[str, ...] = ()
) -> ModelRequest:
    asked = (*earlier, text)
    messages = tuple(ModelMessage(author=Author.USER, text=one) for one in asked)
    return ModelRequest(turn_id="t", system="Answer.", messages=messages, passages=passages)


async def events_of(model: Model, request: ModelRequest) -> list[ModelEvent]:
    async with model.stream(request) as events:
        return [event async for event in events]


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("passages", [(), PASSAGES])
async def test_deltas_come_first_and_the_whole_usage_comes_last(
    model: Model, passages: tuple[ModelPassage, ...]
) -> None:
    *earlier, usage = await events_of(model, request_for("What makes tides?", passages=passages))
    deltas = [event for event in earlier if not isinstance(event, ModelUsage)]
    assert deltas
    assert all(isinstance(delta, TextDelta) and delta.text for delta in deltas)
    assert isinstance(usage, ModelUsage)
    assert usage.model
    assert usage.output_tokens > 0
    assert usage.input_tokens > 0


async def test_the_same_request_is_answered_alike(model: Model) -> None:
    request = request_for("What makes tides?", passages=PASSAGES, earlier=("Do you bake?",))
    assert await events_of(model, request) == await events_of(model, request)


async def test_calls_at_the_same_time_do_not_mix(model: Model) -> None:
    questions = ("What makes tides?", "What makes bread rise?")
    requests = [request_for(question, passages=PASSAGES) for question in questions]
    alone = [await events_of(model, request) for request in requests]
    together = await asyncio.gather(*(events_of(model, request) for request in requests))
    assert list(together) == alone


async def test_a_call_can_be_left_early_and_made_again(model: Model) -> None:
    request = request_for("What makes tides?", passages=PASSAGES)
    async with model.stream(request) as events:
        first = await anext(event async for event in events if isinstance(event, TextDelta))
    assert text_of(await events_of(model, request)).startswith(first.text)


async def test_a_call_that_is_cancelled_ends_at_once(model: Model) -> None:
    request = request_for("What makes tides?", passages=PASSAGES)
    started = asyncio.Event()

    async def read() -> None:
        async with model.stream(request) as events:
            async for _ in events:
                started.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


async def test_tools_that_nobody_needs_change_nothing(model: Model) -> None:
    plain = request_for("What makes tides?", passages=PASSAGES)
    with_tools = replace(plain, tools=(LOOK,), may_call=False)
    assert text_of(await events_of(model, with_tools)) == text_of(await events_of(model, plain))


@pytest.mark.parametrize("opened", CALLING.values(), ids=CALLING)
async def test_a_model_that_waits_says_for_what_and_goes_on_with_the_results(
    opened: Callable[[], AbstractAsyncContextManager[Model]],
) -> None:
    request = replace(request_for("Please look."), tools=(LOOK,))
    async with opened() as model:
        *_, wait, usage = await events_of(model, request)
        assert isinstance(wait, ModelWait)
        assert isinstance(usage, ModelUsage)
        assert [(call.name, type(call.input)) for call in wait.calls] == [("look", dict)] * 2
        results = tuple(ToolResult(call_id=call.call_id, text="Much.") for call in wait.calls)
        assert len({call.call_id for call in wait.calls}) == 2
        done = replace(request, rounds=(ModelRound(wait=wait, results=results),))
        answer = await events_of(model, done)
        assert text_of(answer)
        assert not any(isinstance(event, ModelWait) for event in answer)
        closed = await events_of(model, replace(request, may_call=False))
        assert not any(isinstance(event, ModelWait) for event in closed)


@pytest.mark.parametrize("fail", ["unavailable", "refused", "rejected"])
@pytest.mark.parametrize("after", [0, 2])
async def test_a_scripted_failure_is_one_of_the_ports_errors(fail: str, after: int) -> None:
    model = ScriptedModel(Script(fail=fail, fail_after=after))
    seen: list[ModelEvent] = []

    async def read() -> None:
        async with model.stream(request_for("Fail.")) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - the events before the error count

    with pytest.raises(ModelError):
        await read()
    assert len(seen) == after


async def test_a_script_counts_the_failures_of_earlier_processes_too(tmp_path: Path) -> None:
    script = Script(fail="unavailable", fail_times=1)
    first, second = (ScriptedModel(script, calls_file=tmp_path / "calls") for _ in range(2))
    with pytest.raises(ModelError):
        await events_of(first, request_for("Hello?"))
    assert text_of(await events_of(second, request_for("Hello?"))) == script.text
