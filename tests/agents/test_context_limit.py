"""What fits a model: the oldest exchanges go out first, and what cannot fit fails by name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER, Message
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TURN_STATE_FAILED
from services.agents.adapters.claude import claude
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.agents.loop import LoopOptions
from services.agents.context_limit import ContextOptions, fitted
from services.agents.errors import ContextTooLarge
from services.agents.fitted_model import FittedModel
from services.agents.ports import (
    Author,
    ModelEvent,
    ModelMessage,
    ModelRequest,
    ModelRound,
    ModelSection,
    ModelUsage,
    ModelWait,
    TextDelta,
    ToolCall,
    ToolResult,
)
from services.agents.settings import AgentsSettings
from services.agents.tokens import estimated_tokens
from services.runtime.settings import BadSettings, load
from tests.emulators.anthropic import anthropic_emulator
from tests.emulators.anthropic_answers import texts_of
from tests.emulators.anthropic_plan import Rule
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import office

LONG = "word " * 500
"""A message of about a thousand tokens, as they are estimated."""


def talk(*authors: Author, **fields: Any) -> ModelRequest:
    messages = tuple(
        ModelMessage(author=author, text=f"{number} {LONG}")
        for number, author in enumerate(authors)
    )
    return ModelRequest(turn_id="t", system="Answer.", messages=messages, **fields)


def exchanges(count: int, **fields: Any) -> ModelRequest:
    return talk(*[Author.USER, Author.AGENT] * count, Author.USER, **fields)


def numbers(request: ModelRequest) -> list[int]:
    return [int(message.text.split()[0]) for message in request.messages]


def test_what_fits_stays_as_it_is() -> None:
    request = exchanges(5)
    assert fitted(request, estimated_tokens(request), 1.0) == request


@pytest.mark.parametrize(("room", "left"), [(9000, 7), (7000, 5), (2000, 1), (1100, 1)])
def test_the_oldest_exchanges_go_out_whole_and_are_counted(room: int, left: int) -> None:
    request = exchanges(5, left_out=3, summary='"Before."')
    fits = fitted(request, room, 1.0)
    assert numbers(fits) == list(range(11 - left, 11))
    assert fits.messages[0].author is Author.USER
    assert fits.left_out == 3 + 11 - left
    assert fits.summary == request.summary
    assert estimated_tokens(fits) <= room


def test_an_answer_without_its_question_goes_out_with_what_is_before_the_next_question() -> None:
    request = talk(Author.AGENT, Author.AGENT, Author.USER, Author.AGENT, Author.USER)
    assert numbers(fitted(request, 4000, 1.0)) == [2, 3, 4]


def test_rounds_of_tools_stay_whole_and_history_makes_room_for_them() -> None:
    call = ToolCall(call_id="c", name="look", input={})
    done = ModelRound(
        wait=ModelWait(calls=(call,)), results=(ToolResult(call_id="c", text=LONG * 3),)
    )
    request = exchanges(3, rounds=(done, done))
    fits = fitted(request, 8000, 1.0)
    assert fits.rounds == request.rounds
    assert numbers(fits) == [6]


def test_what_cannot_fit_is_refused_and_named_by_what_is_large() -> None:
    sections = (ModelSection(name="specifications", text=LONG * 9),)
    with pytest.raises(ContextTooLarge) as caught:
        fitted(exchanges(2, sections=sections), 5000, 1.0)
    said = str(caught.value)
    assert "can read 5000 tokens" in said
    assert "specifications about 9" in said
    assert said.index("specifications") < said.index("the question")


class Reader:
    """Refuses what is longer than it reads, and says that it reads *factor* times the estimate."""

    def __init__(self, most: float, factor: float = 1.0) -> None:
        self.most = most
        self.factor = factor
        self.asked: list[ModelRequest] = []

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        self.asked.append(request)
        if self.reads(request) > self.most:
            raise ContextTooLarge("prompt is too long")
        yield self._events(request)

    async def _events(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta(text="So.")
        yield ModelUsage(model="m", input_tokens=int(self.reads(request)), output_tokens=1)

    def reads(self, request: ModelRequest) -> float:
        return self.factor * estimated_tokens(request)


def fitted_model(reader: Reader, **options: Any) -> FittedModel:
    options = {"tokens": 20_000, "margin": 0, **options}
    return FittedModel(reader, options=ContextOptions(**options), name="m", max_tokens=1000)


async def ask(model: FittedModel, request: ModelRequest) -> None:
    async with model.stream(request) as events:
        assert [event async for event in events]


async def test_a_model_that_refuses_is_asked_once_more_with_half_of_it() -> None:
    reader = Reader(most=7000)
    await ask(fitted_model(reader), exchanges(5))
    assert [len(request.messages) for request in reader.asked] == [11, 5]


async def test_a_model_that_refuses_that_too_is_not_asked_again() -> None:
    reader = Reader(most=100)
    with pytest.raises(ContextTooLarge):
        await ask(fitted_model(reader), exchanges(5))
    assert len(reader.asked) == 2


async def test_where_nothing_can_go_a_refusal_stands() -> None:
    reader = Reader(most=100)
    with pytest.raises(ContextTooLarge, match="the question about 1"):
        await ask(fitted_model(reader), exchanges(0))
    assert len(reader.asked) == 1


async def test_what_calls_have_really_read_corrects_the_estimate_of_the_next_ones() -> None:
    reader = Reader(most=1_000_000, factor=2.0)
    model = fitted_model(reader)
    await ask(model, exchanges(2))
    await ask(model, exchanges(9))
    assert len(reader.asked[-1].messages) < 19
    assert reader.reads(reader.asked[-1]) <= 19_000
    modest = Reader(most=1_000_000, factor=0.1)
    model = fitted_model(modest)
    await ask(model, exchanges(2))
    await ask(model, exchanges(9))
    assert estimated_tokens(modest.asked[-1]) <= 19_000, "never less careful than the estimate"


async def test_each_model_has_a_limit_of_its_own() -> None:
    reader = Reader(most=1_000_000)
    await ask(fitted_model(reader, models={"m*": 6000}), exchanges(9))
    assert estimated_tokens(reader.asked[0]) <= 5000
    settings = load(AgentsSettings, environ={"MAIEUTIC_MODEL_CONTEXT_MODELS": '{"a*": 9}'})
    assert settings.model.context.room("abc", 1) == 9 - 1 - settings.model.context.margin


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"context": ContextOptions(tokens=8192 + 2000)}, "CONTEXT_TOKENS: leaves 0 tokens to"),
        ({"loop": LoopOptions(rounds=-1)}, "LOOP_ROUNDS: must be at least 0, is -1"),
    ],
)
async def test_limits_under_which_nothing_can_be_answered_end_the_start(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadSettings, match=told):
        async with office(**options):
            pass


# --- by whole turns -------------------------------------------------------------------------------


def said(count: int, text: str) -> list[Message]:
    return [
        Message(
            message_id=f"m{number}",
            position=number,
            author=AUTHOR_USER if number % 2 else AUTHOR_AGENT,
            text=f"{number} {text}",
        )
        for number in range(1, count + 1)
    ]


async def test_a_turn_that_cannot_fit_fails_by_name_and_costs_no_call() -> None:
    async with (
        anthropic_emulator() as emulator,
        claude(ClaudeOptions(api_key="k", base_url=emulator.url), connections=4) as model,
        office(model, context=ContextOptions(tokens=12_000)) as place,
    ):
        await place.ask("word " * 5000)
        outcome = (await place.finished()).outcome
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "CONTEXT_TOO_LARGE")
    assert "the question about 10" in outcome.explanation
    assert emulator.requests == []


@pytest.mark.parametrize(
    "words",
    [
        "prompt is too long: 208310 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000",
    ],
)
async def test_a_prompt_that_claude_finds_too_long_is_asked_with_less_of_the_conversation(
    words: str,
) -> None:
    store = LiveStore(window=said(20, LONG))
    async with (
        anthropic_emulator() as emulator,
        claude(ClaudeOptions(api_key="k", base_url=emulator.url), connections=4) as model,
        office(model, store=store) as place,
    ):
        emulator.plan = [Rule(status=400, message=words, times=1)]
        await place.ask("Well?")
        assert (await place.finished()).outcome.state == TURN_STATE_COMPLETED
        whole, less = (seen.body["messages"] for seen in emulator.requests)
        assert len(less) < len(whole)
        assert texts_of(less[0])[0].startswith("<left_out>")
        emulator.forget()
        emulator.plan = [Rule(status=400, message=words)]
        await place.ask("Well?")
        outcome = (await place.finished()).outcome
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "CONTEXT_TOO_LARGE")
    assert len(emulator.requests) == 2
