"""Claude's calls of tools on the real SDK, against an emulator of the API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from services.agents.adapters.claude import ClaudeModel, claude
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.ports import (
    Author,
    ModelEvent,
    ModelMessage,
    ModelRequest,
    ModelRound,
    ModelTool,
    ModelUsage,
    ModelWait,
    TextDelta,
    ToolResult,
)
from tests.emulators.anthropic import SIGNATURE, Emulator, anthropic_emulator
from tests.emulators.anthropic_plan import Call, Rule
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import office
from tests.waiting import wait_until

LOOK = ModelTool(
    name="look",
    description="Looks.",
    schema={"type": "object", "properties": {"word": {"type": "string"}}},
)
MOON = Call(name="search_documents", input={"query": "moon tides"})
BREAD = Call(name="search_documents", input={"query": "bread yeast"})


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with anthropic_emulator() as running:
        yield running


@pytest.fixture
async def model(emulator: Emulator) -> AsyncIterator[ClaudeModel]:
    options = ClaudeOptions(api_key="key", base_url=emulator.url)
    async with claude(options, connections=50) as ready:
        yield ready


def request_for(*rounds: ModelRound, **fields: Any) -> ModelRequest:
    question = ModelMessage(author=Author.USER, text="What is there?")
    return ModelRequest(
        turn_id="t",
        system=fields.pop("system", "Answer well."),
        messages=(question,),
        tools=fields.pop("tools", (LOOK,)),
        rounds=rounds,
        **fields,
    )


async def events_of(model: ClaudeModel, request: ModelRequest) -> list[ModelEvent]:
    async with model.stream(request) as events:
        return [event async for event in events]


async def wait_of(model: ClaudeModel, request: ModelRequest) -> ModelWait:
    *_, wait, usage = await events_of(model, request)
    assert isinstance(usage, ModelUsage)
    assert isinstance(wait, ModelWait)
    return wait


def answered(wait: ModelWait, *texts: str, failed: bool = False) -> ModelRound:
    results = zip(wait.calls, texts, strict=True)
    return ModelRound(
        wait=wait,
        results=tuple(
            ToolResult(call_id=call.call_id, text=text, failed=failed) for call, text in results
        ),
    )


async def test_calls_are_read_from_the_stream_and_go_back_with_their_results(
    emulator: Emulator, model: ClaudeModel
) -> None:
    calls = [Call(name="look", input={"word": "a", "deep": {"n": [1]}}), Call(name="look")]
    emulator.plan = [Rule(thinking="Let me see.", text="I look.", calls=calls, times=1)]
    deltas = await events_of(model, request_for())
    wait = deltas[-2]
    assert isinstance(wait, ModelWait)
    assert "".join(e.text for e in deltas if isinstance(e, TextDelta)) == "I look."
    assert [(one.name, one.input) for one in wait.calls] == [
        ("look", {"word": "a", "deep": {"n": [1]}}),
        ("look", {}),
    ]
    await events_of(model, request_for(answered(wait, "Much.", "Nothing.", failed=True)))
    question, said, results = emulator.requests[1].body["messages"]
    assert question == emulator.requests[0].body["messages"][0]
    thought, text, one, other = said["content"]
    assert thought == {"type": "thinking", "thinking": "Let me see.", "signature": SIGNATURE}
    assert text["text"] == "I look."
    assert [one["input"], other["input"]] == [{"word": "a", "deep": {"n": [1]}}, {}]
    assert results["content"] == [
        {"type": "tool_result", "tool_use_id": call.call_id, "content": text, "is_error": True}
        for call, text in zip(wait.calls, ("Much.", "Nothing."), strict=True)
    ]


HALF, ENDLESS, DEEP, DEEPEST = (
    '{"word": "\\ud83d"}',
    '{"word": 1e999}',
    f'{{"word": {"[" * 101}{"]" * 101}}}',
    f'{{"word": {"[" * 3000}{"]" * 3000}}}',
)


@pytest.mark.parametrize("sent", ['{"word": "a', "[1]", "no", "1", HALF, ENDLESS, DEEP, DEEPEST])
async def test_input_that_is_no_object_is_none_and_can_be_sent_back(
    emulator: Emulator, model: ClaudeModel, sent: str
) -> None:
    emulator.plan = [Rule(calls=[Call(name="look", json=sent)], times=1)]
    wait = await wait_of(model, request_for())
    assert wait.calls[0].input is None
    await events_of(model, request_for(answered(wait, "The input is malformed.")))
    assert emulator.requests[1].body["messages"][1]["content"][0]["input"] == {}


async def test_what_a_paused_answer_has_said_goes_back_as_one_message(
    emulator: Emulator, model: ClaudeModel
) -> None:
    emulator.plan = [
        Rule(text="Let me", stop_reason="pause_turn", times=1),
        Rule(text=" see", stop_reason="pause_turn", times=1),
        Rule(calls=[Call(name="look")], times=1),
    ]
    first = await wait_of(model, request_for())
    assert first.calls == ()
    rounds = [ModelRound(wait=first, results=())]
    rounds.append(ModelRound(wait=await wait_of(model, request_for(*rounds)), results=()))
    third = await wait_of(model, request_for(*rounds))
    await events_of(model, request_for(*rounds, answered(third, "Much.")))
    _, said, results = emulator.requests[-1].body["messages"]
    assert [block.get("text", "call") for block in said["content"]] == ["Let me", " see", "call"]
    assert results["role"] == "user"


async def test_a_call_that_is_cut_is_not_made(emulator: Emulator, model: ClaudeModel) -> None:
    cut = Rule(text="I look.", calls=[Call(name="look", json='{"wo')], stop_reason="max_tokens")
    emulator.plan = [cut]
    *earlier, usage = await events_of(model, request_for())
    assert not any(isinstance(event, ModelWait) for event in earlier)
    assert isinstance(usage, ModelUsage)
    assert usage.cut


async def test_a_model_that_has_handed_on_may_have_nothing_to_add(
    emulator: Emulator, model: ClaudeModel
) -> None:
    code = Call(name="generate_code")
    emulator.plan = [Rule(text="I have it written.", calls=[code], times=1), Rule(text="")]
    async with office(model) as place:
        turn_id = await place.ask("Write it.")
        outcome = (await place.finished()).outcome
        assert (outcome.state, outcome.text) == (TURN_STATE_COMPLETED, "I have it written.")
        assert len(place.store.turns[turn_id].hand_on) == len(emulator.requests) - 1 == 1
        assert len(outcome.usage) == 2


@pytest.mark.parametrize(
    "rule",
    [
        Rule(calls=[Call(name="generate_code")]),
        Rule(text="I have it written.", calls=[Call(name="generate_code", json="no")]),
        Rule(text="I have a look.", calls=[Call(name="list_specifications")]),
        Rule(text="I think.", stop_reason="pause_turn"),
    ],
    ids=["nothing was said", "nothing is handed on", "something was looked up", "a pause"],
)
async def test_whoever_has_not_answered_yet_may_not_be_silent(
    emulator: Emulator, model: ClaudeModel, rule: Rule
) -> None:
    emulator.plan = [replace(rule, times=1), Rule(text="")]
    async with office(model) as place:
        failure = await place.failure(await place.ask("Write it."))
        assert (failure.reason, failure.retryable) == ("MODEL_UNAVAILABLE", True)


async def test_tools_are_named_but_closed_where_the_model_has_to_answer(
    emulator: Emulator, model: ClaudeModel
) -> None:
    await events_of(model, request_for(may_call=False))
    await events_of(model, request_for())
    await events_of(model, request_for(tools=(), may_call=False))
    closed, open_, without = (seen.body for seen in emulator.requests)
    assert closed["tool_choice"] == {"type": "none"}
    assert closed["tools"] == open_["tools"]
    assert "tool_choice" not in open_
    assert not {"tools", "tool_choice"} & set(without)


async def test_tools_and_instructions_are_cached_together(
    emulator: Emulator, model: ClaudeModel
) -> None:
    long = ModelTool(name="look", description="word " * 1500, schema={"type": "object"})
    for fields in ({"tools": (long,)}, {"tools": (long,), "system": ""}):
        usages = [(await events_of(model, request_for(**fields)))[-1] for _ in range(2)]
        first, second = (one.cached_tokens for one in usages if isinstance(one, ModelUsage))
        assert (first, second > 1500) == (0, True)
    assert emulator.requests[0].body["tools"][-1]["cache_control"] == {"type": "ephemeral"}


# --- turns ----------------------------------------------------------------------------------------


async def test_parallel_searches_of_claude_end_in_a_cited_answer(
    emulator: Emulator, model: ClaudeModel
) -> None:
    emulator.plan = [
        Rule(text="One moment.", calls=[MOON, BREAD], times=1),
        Rule(text="The moon [1], yeast [2], cheese [3]."),
    ]
    store = LiveStore()
    async with office(model, store=store) as place:
        store.document_ids += [
            place.add_document("tides", "The moon makes the tides."),
            place.add_document("bread", "Yeast makes bread rise."),
        ]
        turn_id = await place.ask("What makes the moon tides and the bread?")
        outcome = (await place.finished()).outcome
        codes = [f.notice.code for f in store.turns[turn_id].log if f.HasField("notice")]
    assert outcome.text == "One moment.\n\nThe moon [1], yeast [2], cheese [3]."
    assert sorted(one.document_name for one in outcome.citations) == ["bread", "tides"]
    assert codes == ["SEARCHING"] * 3
    assert [one.step for one in outcome.usage] == ["direct", "direct"]
    assert len(emulator.requests) == 2


async def test_malformed_input_is_told_to_claude_which_may_do_better(
    emulator: Emulator, model: ClaudeModel
) -> None:
    wrong = [Call(name="search_documents", json='{"query": "mo'), Call(name="look")]
    emulator.plan = [
        Rule(contains="malformed", calls=[MOON], times=1),
        Rule(calls=wrong, times=1),
        Rule(text="The moon [1]."),
    ]
    store = LiveStore()
    async with office(model, store=store) as place:
        store.document_ids.append(place.add_document("tides", "The moon makes the tides."))
        await place.ask("Why?")
        outcome = (await place.finished()).outcome
    assert (outcome.state, len(outcome.citations)) == (TURN_STATE_COMPLETED, 1)
    told = emulator.requests[1].body["messages"][-1]["content"]
    assert [block["is_error"] for block in told] == [True, True]
    assert "There is no such tool" in told[1]["content"]


async def test_a_turn_that_is_stopped_in_a_tool_leaves_nothing_behind(
    emulator: Emulator, model: ClaudeModel
) -> None:
    emulator.plan = [Rule(calls=[MOON, MOON], times=1)]
    store = LiveStore()
    async with office(model, store=store) as place:
        store.document_ids.append(place.add_document("tides", "The moon makes the tides."))
        place.library.searches_left = 1
        place.library.beyond = asyncio.Event()
        turn_id = await place.ask("Why?")
        await wait_until(lambda: place.library.held == 2)
        store.fence_off(turn_id)
        await wait_until(lambda: not place.running.worker.busy)
        await wait_until(lambda: place.library.held == 0)
    assert len(emulator.requests) == 1


async def test_a_paused_answer_goes_on_in_the_same_turn(
    emulator: Emulator, model: ClaudeModel
) -> None:
    emulator.plan = [
        Rule(text="Let me", stop_reason="pause_turn", times=1),
        Rule(text=" tell you."),
    ]
    async with office(model) as place:
        await place.ask("Why?")
        outcome = (await place.finished()).outcome
    assert (outcome.state, outcome.text) == (TURN_STATE_COMPLETED, "Let me tell you.")


async def test_the_next_turn_carries_no_calls_of_the_one_before(
    emulator: Emulator, model: ClaudeModel
) -> None:
    """An attempt that dies between a call and its result leaves no call without a result."""
    emulator.plan = [
        Rule(calls=[Call(name="list_specifications")], times=1),
        Rule(status=500, times=1),
    ]
    async with office(model) as place:
        turn_id = await place.ask("Why?")
        await place.failure(turn_id)
        emulator.plan = []
        await place.ask("And now?")
        assert (await place.finished()).outcome.state == TURN_STATE_COMPLETED
    assert [m["role"] for m in emulator.requests[-1].body["messages"]] == ["user"]
