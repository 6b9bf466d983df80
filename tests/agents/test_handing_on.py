"""The direct agent understands what is asked for: it answers, or hands on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from maieutic.session.v1.turn_work_service_pb2 import HandOn
from maieutic.v1.turn_service_pb2 import TURN_KIND_ANALYSIS, TURN_KIND_CODE, TURN_STATE_COMPLETED
from services.agents.adapters.claude import claude
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.adapters.offline import OFFLINE, OfflineModel
from services.agents.adapters.offline_intents import order_in
from services.agents.agents.handing_on import INSTRUCTIONS_CHARACTERS, NAMES
from services.agents.errors import ModelUnavailable
from services.agents.ports import (
    Author,
    ModelEvent,
    ModelMessage,
    ModelRequest,
    ModelTool,
)
from tests.agents.listening import Listening
from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_plan import Call, Rule
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import Office, office

WRITE_IT = {"instructions": "A library in Python."}
CODE = HandOn(kind=TURN_KIND_CODE, instructions="A library in Python.")
ANALYSIS = HandOn(kind=TURN_KIND_ANALYSIS)


def calling(name: str, *inputs: Any) -> list[dict[str, Any]]:
    return [{"name": name, "input": given} for given in inputs]


async def handed_on(place: Office, text: str = "Go on.") -> list[HandOn]:
    """Ask, and return what the completion hands on."""
    turn_id = await place.ask(text)
    outcome = (await place.finished()).outcome
    assert outcome.state == TURN_STATE_COMPLETED
    return place.store.turns[turn_id].hand_on


@asynccontextmanager
async def beside_claude() -> AsyncIterator[tuple[Emulator, Office]]:
    async with anthropic_emulator() as emulator:
        options = ClaudeOptions(api_key="key", base_url=emulator.url)
        async with claude(options, connections=8) as model, office(model) as place:
            yield emulator, place


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Call(name="generate_code", input=WRITE_IT), [CODE]),
        (Call(name="generate_code"), [HandOn(kind=TURN_KIND_CODE)]),
        (Call(name="record_specifications"), [ANALYSIS]),
    ],
)
async def test_what_claude_calls_for_is_handed_on_with_its_answer(
    call: Call, expected: list[HandOn]
) -> None:
    async with beside_claude() as (emulator, place):
        emulator.plan = [Rule(calls=[call], times=1), Rule(text="It has begun.")]
        assert await handed_on(place) == expected
        first, second = (request.body for request in emulator.requests)
    offered = {tool["name"] for tool in first["tools"]}
    assert {"generate_code", "record_specifications"} <= offered
    assert "begins beside the conversation" in str(second["messages"][-1])


async def test_a_question_costs_one_call_and_hands_nothing_on() -> None:
    async with beside_claude() as (emulator, place):
        emulator.plan = [Rule(text="The moon does.")]
        assert await handed_on(place, "What makes the tides?") == []
        (request,) = emulator.requests
    assert "call `generate_code`" in request.body["system"][0]["text"]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("generate_code", {"instructions": "x" * (INSTRUCTIONS_CHARACTERS + 1)}),
        ("generate_code", {"instructions": ["a"]}),
        ("generate_code", {"instructions": "a", "path": "/etc/passwd"}),
        ("generate_code", None),
        ("record_specifications", {"text": "a"}),
        ("record_specifications", None),
    ],
)
async def test_malformed_input_is_told_to_the_model_and_hands_nothing_on(
    name: str, given: Any
) -> None:
    model = Listening(calls=[calling(name, given)])
    async with office(model) as place:
        assert await handed_on(place) == []
    ((result,),) = model.told
    assert result.failed


async def test_of_a_kind_the_last_call_counts_and_each_kind_is_handed_on() -> None:
    rounds = [
        [*calling("generate_code", {"instructions": "No."}), *calling("record_specifications", {})],
        calling("generate_code", WRITE_IT),
    ]
    async with office(Listening(calls=rounds)) as place:
        assert await handed_on(place) == [CODE, ANALYSIS]


class Stumbling(Listening):
    """Is away for its second call."""

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        async with super().stream(request) as events:
            if len(self.asked) == 2:
                raise ModelUnavailable("away")
            yield events


async def test_of_two_attempts_that_call_for_it_the_one_that_ends_the_turn_hands_on() -> None:
    model = Stumbling(calls=[calling("generate_code", WRITE_IT)])
    async with office(model) as place:
        turn_id = await place.ask("Go on.")
        await place.failure(turn_id)
        turn = place.store.turns[turn_id]
        assert turn.hand_on == []
        await place.publish(turn.job)
        await place.finished()
        assert turn.hand_on == [CODE]
    assert [len(request.rounds) for request in model.asked] == [0, 1, 0, 1]


OFFLINE_ORDERS = [
    ("Generate the code.", "generate_code"),
    ("Please write the program for it", "generate_code"),
    ("Could you create the files?", "generate_code"),
    ("Now implement it.", "generate_code"),
    ("We need it to run on SQLite.", "record_specifications"),
    ("I want at most 20 users.", "record_specifications"),
    ("It must answer within 1 second.", "record_specifications"),
    ("The library has to be written in Python", "record_specifications"),
]
OFFLINE_QUESTIONS = [
    "What does the code do?",
    "How do I write code?",
    "Write a poem about the sea.",
    "I want to know what makes the tides.",
    "I need help with the tides.",
    "What must I do?",
    "Must it run on SQLite?",
    "We want what?",
    "Summarise the files that we generate.",
]


def ordered(text: str, *, may_call: bool = True) -> str:
    """Return the tool that the offline model calls for; empty if it answers."""
    offered = tuple(ModelTool(name=name, description="d", schema={}) for name in NAMES)
    request = ModelRequest(
        turn_id="t",
        system="",
        messages=(ModelMessage(author=Author.USER, text=text),),
        tools=offered,
        may_call=may_call,
    )
    wait = order_in(request)
    return wait.calls[0].name if wait else ""


@pytest.mark.parametrize(("text", "tool"), OFFLINE_ORDERS)
def test_the_offline_model_hands_on_what_begins_as_an_order(text: str, tool: str) -> None:
    assert ordered(text) == tool
    assert ordered(text, may_call=False) == ""


@pytest.mark.parametrize("text", OFFLINE_QUESTIONS)
def test_the_offline_model_takes_everything_else_for_a_question(text: str) -> None:
    assert ordered(text) == ""


async def test_the_offline_model_says_what_it_has_handed_on() -> None:
    async with office(OfflineModel()) as place:
        for text, kind in (("Generate the code.", CODE.kind), ("It must be small.", ANALYSIS.kind)):
            turn_id = await place.ask(text)
            said = (await place.finished()).outcome.text
            assert [one.kind for one in place.store.turns[turn_id].hand_on] == [kind]
            assert said.startswith(f"{OFFLINE} I have handed this on: ")
        assert await handed_on(place, "What makes the tides?") == []


async def test_to_a_search_the_offline_model_answers_with_the_passages_themselves() -> None:
    store = LiveStore()
    async with office(OfflineModel(), store=store) as place:
        store.document_ids.append(place.add_document("tides", "The moon makes tides."))
        store.document_ids.append(place.add_document("cats", "Cats sleep."))
        assert await handed_on(place, "Search for what makes the tides.") == []
        (turn,) = store.turns.values()
    assert turn.finished is not None
    outcome = turn.finished.outcome
    assert "tides: “The moon makes tides.” [" in outcome.text
    assert len(outcome.citations) == len(store.document_ids)
