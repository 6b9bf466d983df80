"""The model loop: rounds of tools, with what a model and a tool may do wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER, Message
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TURN_STATE_FAILED, Usage
from services.agents.adapters.scripted import Script, ScriptedModel
from services.agents.agents.loop import LoopOptions, ModelLoop, Tool
from services.agents.agents.tools import PAGE_MESSAGES
from services.agents.errors import ModelUnending, ToolProblem
from services.agents.ports import (
    Author,
    Delta,
    Model,
    ModelEvent,
    ModelMessage,
    ModelRequest,
    ModelTool,
    Notice,
)
from services.runtime import names
from services.runtime.errors import Unavailable
from tests.agents.listening import Listening
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import office
from tests.recorded import recording
from tests.waiting import wait_until

LOOKING = Notice(code="LOOKING", text="Looking")


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    word: str


async def echo(given: _Form) -> str:
    return f"It says {given.word}."


def tool(call: Callable[[_Form], Awaitable[str]] = echo, name: str = "look") -> Tool[_Form]:
    told = ModelTool(name=name, description="Looks.", schema=_Form.model_json_schema())
    return Tool(told=told, form=_Form, notice=LOOKING, call=call)


def calling(*inputs: Any, name: str = "look") -> list[dict[str, Any]]:
    return [{"name": name, "input": given} for given in inputs]


async def answered(
    model: Model, *tools: Tool[_Form], **options: Any
) -> list[Delta | Notice | Usage]:
    message = ModelMessage(author=Author.USER, text="What is there?")
    request = ModelRequest(turn_id="t", system="", messages=(message,))
    loop = ModelLoop(model, LoopOptions(**options))
    async with aclosing(loop.run(request, prompt="p", tools=tools)) as events:
        return [event async for event in events]


def text_of(events: list[Delta | Notice | Usage]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_results_go_back_in_the_order_of_the_calls_and_the_answer_follows() -> None:
    model = Listening(text="So it is.", calls=[calling({"word": "a"}, {"word": "b"})])
    events = await answered(model, tool())
    assert [[one.text for one in results] for results in model.told] == [
        ["It says a.", "It says b."]
    ]
    calls = model.asked[1].rounds[0].wait.calls
    assert [call.call_id for call in calls] == [one.call_id for one in model.told[0]]
    assert events.count(LOOKING) == 2
    assert text_of(events) == "So it is."
    assert sum(isinstance(event, Usage) for event in events) == 2


async def test_tools_of_a_round_run_at_the_same_time() -> None:
    inside, everybody = 0, asyncio.Event()

    async def together(given: _Form) -> str:
        nonlocal inside
        inside += 1
        if inside == 3:
            everybody.set()
        await everybody.wait()
        return given.word

    model = Listening(calls=[calling(*({"word": word} for word in "abc"))])
    await answered(model, tool(together))
    assert [one.text for one in model.told[0]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "the whole"),
        ({}, "word: Field required"),
        ({"word": 1}, "word: Input should be a valid string"),
        ({"word": "a", "tenant": "zenith"}, "tenant: Extra inputs are not permitted"),
    ],
)
async def test_malformed_input_is_told_to_the_model_and_the_tool_is_not_called(
    given: Any, words: str
) -> None:
    async def never(_: _Form) -> str:
        raise AssertionError

    model = Listening(calls=[calling(given)])
    assert text_of(await answered(model, tool(never)))
    (result,) = model.told[0]
    assert result.failed
    assert words in result.text


async def test_what_fails_is_told_to_the_model_and_its_neighbour_is_not_disturbed() -> None:
    async def unavailable(_: _Form) -> str:
        raise Unavailable("the search is away")

    async def silent(_: _Form) -> str:
        await asyncio.Event().wait()
        return "never"

    async def wrong(_: _Form) -> str:
        raise ToolProblem("there is no such page")

    tools = {"away": unavailable, "silent": silent, "wrong": wrong, "look": echo}
    calls = [calling({"word": "a"}, name=name)[0] for name in (*tools, "magic")]
    model = Listening(calls=[calls])
    await answered(model, *(tool(call, name) for name, call in tools.items()), tool_timeout=0.05)
    texts = [(one.failed, one.text) for one in model.told[0]]
    assert texts == [
        (True, "the search is away"),
        (True, "This took longer than 0.05 s and was given up."),
        (True, "there is no such page"),
        (False, "It says a."),
        (True, "There is no such tool; there are: away, silent, wrong, look."),
    ]


async def test_a_result_is_bounded_and_an_empty_one_says_so() -> None:
    async def of_length(given: _Form) -> str:
        return "x" * int(given.word) or "  "

    model = Listening(calls=[calling({"word": "100"}, {"word": "101"}, {"word": "0"})])
    await answered(model, tool(of_length), result_characters=100)
    whole, cut, nothing = (one.text for one in model.told[0])
    assert whole == "x" * 100
    assert cut.startswith("x" * 100 + "\n[")
    assert "x" * 101 not in cut
    assert nothing == "Nothing was found."


@pytest.mark.parametrize("failed", [False, True])
async def test_half_a_character_in_a_result_keeps_nobody_from_reading_the_rest(
    failed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """As of a file's name that is no UTF-8."""
    name = b"caf\xe9.txt".decode(errors="surrogateescape")

    async def named(_: _Form) -> str:
        if failed:
            raise ToolProblem(name)
        return name

    model = Listening(calls=[calling({"word": "a"})])
    await answered(model, tool(named))
    assert [one.text for one in model.told[0]] == ["caf?.txt"]


async def test_after_the_last_round_the_model_has_to_answer() -> None:
    model = Listening(text="Enough.", calls=[calling({"word": "a"})] * 9)
    assert text_of(await answered(model, tool(), rounds=2)) == "Enough."
    assert [request.may_call for request in model.asked] == [True, True, False]
    assert all(request.tools for request in model.asked)


async def test_calls_beyond_what_may_run_at_once_are_refused_and_answered() -> None:
    model = Listening(calls=[calling(*({"word": str(number)} for number in range(5)))])
    await answered(model, tool(), calls=3)
    assert [one.failed for one in model.told[0]] == [False] * 3 + [True] * 2


async def test_a_pause_is_gone_on_from_and_one_without_end_has_a_name() -> None:
    model = Listening(text="Here.", calls=[[], []])
    assert text_of(await answered(model)) == "Here."
    assert len(model.asked) == 3

    class Restless(Listening):
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
            self.asked.append(request)
            pausing = ScriptedModel(Script(calls=[[]] * 99))
            free = ModelRequest(
                turn_id="t", system="", messages=request.messages, rounds=request.rounds
            )
            async with pausing.stream(free) as events:
                yield events

    restless = Restless()
    with pytest.raises(ModelUnending):
        await answered(restless, rounds=3)
    assert len(restless.asked) == 4


async def test_leaving_stops_every_tool_at_once() -> None:
    started, ended = 0, 0

    async def endless(_: _Form) -> str:
        nonlocal started, ended
        started += 1
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1
        return ""

    model = Listening(calls=[calling(*({"word": word} for word in "abc"))])
    task = asyncio.create_task(answered(model, tool(endless)))
    await wait_until(lambda: started == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == 3


async def test_tools_are_measured_by_their_own_names_only() -> None:
    async with recording() as recorded:
        calls = [*calling({"word": "a"}), *calling(None), *calling({}, name="user text")]
        await answered(Listening(calls=[calls]), tool())
        points = recorded.points(names.TOOL_DURATION, names.TOOL_NAME, names.TOOL_OUTCOME)
    assert {key: point.count for key, point in points.items()} == {
        ("look", "done"): 1,
        ("look", "failed"): 1,
    }


# --- in a turn ------------------------------------------------------------------------------------


def scripted(text: str, *rounds: list[dict[str, Any]]) -> str:
    """What the user says to have the scripted model call tools."""
    return json.dumps({"script": {"text": text, "calls": rounds}})


async def test_what_a_later_search_finds_is_cited_by_the_number_that_it_was_shown_with() -> None:
    store, model = LiveStore(), Listening()
    async with office(model, store=store) as place:
        names_of = ["first", "second", "third", "fourth", "fifth"]
        store.document_ids += [
            *(place.add_document(name, f"alpha beta gamma delta {name}") for name in names_of),
            place.add_document("tides", "The moon makes the tides twice a day."),
            place.add_document("bread", "Yeast makes bread rise in an oven."),
        ]
        place.add_document("private", "yeast oven moon twice of another session")
        one, two = (
            calling({"query": query, "limit": limit}, name="search_documents")
            for query, limit in (("yeast oven", 1), ("moon twice yeast", 2))
        )
        said = "“Yeast makes bread rise” [6], the moon [7], “beta gamma gamma gamma” [1] and [9]."
        await place.ask(f"alpha beta gamma delta {scripted(said, one, two)}")
        outcome = (await place.finished()).outcome
    assert [passage.number for passage in model.asked[0].passages] == [1, 2, 3, 4, 5]
    (first,), (second,) = ([one.text for one in results] for results in model.told)
    assert '<passage number="6" document="bread">' in first
    assert '<passage number="7" document="tides">' in second
    assert '<passage number="6" document="bread">' in second
    assert "another session" not in first + second
    assert [(c.number, c.document_name) for c in outcome.citations] == [(6, "bread"), (7, "tides")]


async def test_citations_are_counted_by_what_supports_them() -> None:
    async with recording() as recorded:
        store = LiveStore()
        async with office(ScriptedModel(), store=store) as place:
            store.document_ids.append(place.add_document("tides", "The moon text tides."))
            await place.ask(scripted("The tides text [1], and “the sun makes the tides” [1] [7]."))
            await place.finished()
        points = recorded.points(names.CITATIONS, names.CITATION_OUTCOME)
    assert {key: point.value for (key,), point in points.items()} == {
        "supported": 1,
        "unsupported": 2,
    }


async def test_every_tool_shows_a_notice_and_the_usage_of_every_call_is_kept() -> None:
    store = LiveStore()
    async with office(ScriptedModel(), store=store) as place:
        store.document_ids.append(place.add_document("tides", "The moon makes the tides."))
        calls = [*calling({"query": "moon"}, name="search_documents")]
        calls += calling({}, name="list_specifications")
        turn_id = await place.ask(scripted("Well.", calls))
        outcome = (await place.finished()).outcome
        notices = [f.notice.code for f in store.turns[turn_id].log if f.HasField("notice")]
    assert notices == ["SEARCHING", "SEARCHING", "READING_SPECIFICATIONS"]
    assert (outcome.state, outcome.text) == (TURN_STATE_COMPLETED, "Well.")
    assert len(outcome.usage) == 2


async def test_without_documents_nothing_can_be_searched() -> None:
    model = Listening()
    async with office(model) as place:
        place.add_document("private", "Bread of another session.")
        await place.ask(scripted("Well.", calling({"query": "bread"}, name="search_documents")))
        await place.finished()
    assert "search_documents" not in [told.name for told in model.asked[0].tools]
    assert model.told[0][0].failed
    assert "another session" not in model.told[0][0].text


async def test_a_search_that_is_away_is_told_to_the_model_and_not_the_turns_end() -> None:
    store, model = LiveStore(), Listening()
    async with office(model, store=store) as place:
        store.document_ids.append(place.add_document("tides", "The moon makes the tides."))
        place.library.searches_left = 1
        await place.ask(scripted("Well.", calling({"query": "moon"}, name="search_documents")))
        outcome = (await place.finished()).outcome
    assert outcome.text == "Well."
    assert model.told[0][0].failed


async def test_all_that_was_said_can_be_read_page_by_page() -> None:
    """Pages that would be too long are shorter, and nothing is left out between them."""
    window = [
        Message(author=(AUTHOR_USER, AUTHOR_AGENT)[n % 2], text=f"said {n} " + "<" * 300)
        for n in range(40)
    ]
    model, found, page = Listening(), list[str](), ""
    async with office(model, store=LiveStore(window=window)) as place:
        for number in range(20):
            call = calling({"page": page}, name="get_session_conversation_history")
            await place.ask(scripted(f"{number}.", call))
            await place.finished()
            told = json.loads(model.told[0][0].text)
            texts = [one["text"].split(" <")[0] for one in told["messages"]]
            found += texts if page else texts[1:]  # the first one is the question
            if not (page := told["next_page"]):
                break
    assert number > 40 // PAGE_MESSAGES
    assert found == [f"said {n}" for n in reversed(range(40))]


async def test_a_message_longer_than_a_page_is_cut_and_the_next_page_can_be_read() -> None:
    store, model = LiveStore(window=[Message(text="x" * 50_000)] * 2), Listening()
    async with office(model, store=store) as place:
        await place.ask(
            scripted("Well.", calling({"page": "1"}, name="get_session_conversation_history"))
        )
        await place.finished()
    text = model.told[0][0].text
    assert len(text) < 21_000
    assert text.startswith('{"next_page": "2", "messages": [{"author": "user"')


async def test_a_conversation_that_cannot_be_read_is_told_to_the_model() -> None:
    store, model = LiveStore(unreadable=True), Listening()
    async with office(model, store=store) as place:
        call = calling({}, name="get_session_conversation_history")
        await place.ask(scripted("Well.", call))
        assert (await place.finished()).outcome.text == "Well."
    (result,) = model.told[0]
    assert result.failed
    assert "cannot be read" in result.text


async def test_a_model_that_never_ends_fails_its_turn_by_name() -> None:
    class Pausing(Listening):
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
            async with self.model.stream(
                ModelRequest(
                    turn_id=request.turn_id, system="", messages=request.messages, rounds=()
                )
            ) as events:
                yield events

    async with office(Pausing(calls=[[]])) as place:
        await place.ask("Go on.")
        outcome = (await place.finished()).outcome
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "MODEL_UNENDING")
