"""The emulator of Anthropic's API, as the real SDK and plain HTTP see it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from anthropic import APIStatusError, AsyncAnthropic, BadRequestError, RateLimitError
from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam, ToolUseBlockParam
from pydantic import BaseModel

from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_plan import Rule

WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "Tell the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    },
}
HELLO: list[MessageParam] = [{"role": "user", "content": "Hello there?"}]


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with anthropic_emulator() as running:
        yield running


@pytest.fixture
async def sdk(emulator: Emulator) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(api_key="key", base_url=emulator.url, max_retries=0) as client:
        yield client


@pytest.fixture
async def http(emulator: Emulator) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=emulator.url) as client:
        yield client


async def test_an_answer_is_the_same_streamed_and_whole(sdk: AsyncAnthropic) -> None:
    whole = await sdk.messages.create(model="m", max_tokens=100, messages=HELLO)
    async with sdk.messages.stream(model="m", max_tokens=100, messages=HELLO) as stream:
        streamed = await stream.get_final_message()
    assert [block.text for block in whole.content if block.type == "text"] == [
        "You asked, as message 1: Hello there?"
    ]
    assert streamed.content[0].model_dump(exclude={"parsed_output"}) == whole.content[0].model_dump(
        exclude={"parsed_output"}
    )
    assert streamed.stop_reason == whole.stop_reason == "end_turn"
    assert streamed.usage.output_tokens == whole.usage.output_tokens == 7


async def test_a_stream_has_the_events_of_the_real_one(sdk: AsyncAnthropic) -> None:
    stream = await sdk.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True)
    kinds = [event.type async for event in stream]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_thoughts_come_in_a_block_before_the_answer(
    sdk: AsyncAnthropic, http: httpx2.AsyncClient
) -> None:
    await http.put("/plan", json={"rules": [{"thinking": "Let me see.", "text": "Yes."}]})
    whole = await sdk.messages.create(model="m", max_tokens=100, messages=HELLO)
    async with sdk.messages.stream(model="m", max_tokens=100, messages=HELLO) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        thought, answer = message.content
        assert thought.type == "thinking"
        assert (thought.thinking, bool(thought.signature)) == ("Let me see.", True)
        assert answer.type == "text"
        assert answer.text == "Yes."


async def test_a_tool_that_the_question_names_is_called(sdk: AsyncAnthropic) -> None:
    question: list[MessageParam] = [{"role": "user", "content": "Use get_weather for Rome."}]
    async with sdk.messages.stream(
        model="m", max_tokens=100, messages=question, tools=[WEATHER]
    ) as stream:
        message = await stream.get_final_message()
    assert message.stop_reason == "tool_use"
    call = message.content[0]
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": "text", "days": 1})
    used: ToolUseBlockParam = {
        "type": "tool_use",
        "id": call.id,
        "name": call.name,
        "input": call.input,
    }
    result: ToolResultBlockParam = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": "Sunny.",
    }
    answered: list[MessageParam] = [
        *question,
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [result]},
    ]
    after = await sdk.messages.create(model="m", max_tokens=100, messages=answered, tools=[WEATHER])
    assert after.stop_reason == "end_turn"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
async def test_a_tool_that_must_be_called_is(sdk: AsyncAnthropic, choice: Any) -> None:
    message = await sdk.messages.create(
        model="m", max_tokens=100, messages=HELLO, tools=[WEATHER], tool_choice=choice
    )
    assert [block.type for block in message.content] == ["tool_use"]


async def test_no_tool_is_called_unasked(sdk: AsyncAnthropic) -> None:
    message = await sdk.messages.create(model="m", max_tokens=9, messages=HELLO, tools=[WEATHER])
    assert [block.type for block in message.content] == ["text"]


async def test_tools_are_called_together_by_plan(
    sdk: AsyncAnthropic, http: httpx2.AsyncClient
) -> None:
    calls = [{"name": "get_weather", "input": {"city": city}} for city in ("Rome", "Oslo")]
    await http.put("/plan", json={"rules": [{"text": "I look.", "calls": calls}]})
    whole = await sdk.messages.create(model="m", max_tokens=9, messages=HELLO, tools=[WEATHER])
    async with sdk.messages.stream(
        model="m", max_tokens=100, messages=HELLO, tools=[WEATHER]
    ) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        said, *called = message.content
        assert said.type == "text"
        assert [one.input for one in called if one.type == "tool_use"] == [
            {"city": "Rome"},
            {"city": "Oslo"},
        ]


@pytest.mark.parametrize("results", [[], ["a"], ["a", "b", "c"]])
async def test_a_call_without_its_result_is_refused(
    sdk: AsyncAnthropic, results: list[str]
) -> None:
    with pytest.raises(BadRequestError):
        await told(sdk, results)
    await told(sdk, ["b", "a"])


async def told(sdk: AsyncAnthropic, results: list[str]) -> None:
    """Go on after two calls, a and b, with these results."""
    called = [{"type": "tool_use", "id": name, "name": "get_weather", "input": {}} for name in "ab"]
    brought = [{"type": "tool_result", "tool_use_id": name, "content": "Sun."} for name in results]
    messages: Any = [
        *HELLO,
        {"role": "assistant", "content": called},
        {"role": "user", "content": [*brought, {"type": "text", "text": "Go on."}]},
    ]
    await sdk.messages.create(model="m", max_tokens=9, messages=messages, tools=[WEATHER])


class Place(BaseModel):
    name: str
    kind: str | None


class Trip(BaseModel):
    places: list[Place]
    days: int
    cheap: bool


async def test_a_structured_answer_fits_its_schema(sdk: AsyncAnthropic) -> None:
    message = await sdk.messages.parse(
        model="m", max_tokens=100, messages=HELLO, output_format=Trip
    )
    trip = message.parsed_output
    assert isinstance(trip, Trip)
    assert trip.places[0].name == "text"


async def test_tokens_are_counted(sdk: AsyncAnthropic) -> None:
    counted = await sdk.messages.count_tokens(model="m", messages=HELLO, system="Be kind.")
    assert counted.input_tokens == 4


async def test_counting_fails_by_plan_too(sdk: AsyncAnthropic, http: httpx2.AsyncClient) -> None:
    await http.put("/plan", json={"rules": [{"status": 429, "retry_after": 2}]})
    with pytest.raises(RateLimitError) as caught:
        await sdk.messages.count_tokens(model="m", messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "First."}],
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}],
        [{"role": "narrator", "content": "One."}],
        [],
    ],
)
async def test_a_conversation_out_of_form_is_refused(
    sdk: AsyncAnthropic, messages: list[MessageParam]
) -> None:
    with pytest.raises(BadRequestError):
        await sdk.messages.create(model="m", max_tokens=9, messages=messages)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_request_without_a_key_or_in_no_form_is_refused(
    http: httpx2.AsyncClient, path: str
) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": HELLO}
    assert (await http.post(path, json=body)).status_code == 401
    for broken in (b"{", b"[]", b"{}"):
        answer = await http.post(path, content=broken, headers={"x-api-key": "key"})
        assert answer.status_code == 400


async def test_the_plan_is_made_over_http_and_its_first_fitting_rule_decides(
    sdk: AsyncAnthropic, http: httpx2.AsyncClient
) -> None:
    async def status(text: str) -> int:
        try:
            await sdk.messages.create(
                model="m", max_tokens=9, messages=[{"role": "user", "content": text}]
            )
        except APIStatusError as error:
            return error.status_code
        return 200

    rules = [
        {"contains": "rain", "status": 529, "retry_after": 3},
        {"status": 429, "times": 1},
        {"status": 500, "every": 2},
    ]
    await http.put("/plan", json={"rules": rules})
    asked = ("rain", "sun", "sun", "rain", "sun", "sun")
    assert [await status(text) for text in asked] == [529, 429, 200, 529, 500, 200]
    await http.delete("/plan")
    assert await status("rain") == 200


def test_a_rule_may_be_for_a_crowd_alone() -> None:
    rule = Rule(above=2)
    assert [rule.applies("", "", active) for active in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize(
    "plan",
    [
        *({}, {"rules": 1}, "no"),
        *({"rules": [rule]} for rule in ({"statuses": 1}, {"breaks": "badly"}, {"every": 0}, 1)),
    ],
)
async def test_a_plan_that_cannot_be_read_is_refused_with_the_reason(
    http: httpx2.AsyncClient, plan: Any
) -> None:
    response = await http.put("/plan", json=plan)
    assert response.status_code == 400
    assert "a plan is an object as" in response.json()["error"]["message"]


async def test_what_came_is_reported(sdk: AsyncAnthropic, http: httpx2.AsyncClient) -> None:
    await http.put("/plan", json={"rules": [{"header_delay": 0.2}]})
    await asyncio.gather(
        *(sdk.messages.create(model="m", max_tokens=9, messages=HELLO) for _ in range(3))
    )
    report = (await http.get("/requests")).json()
    assert (report["total"], report["active"], report["peak"]) == (3, 0, 3)
    assert {(one["status"], one["end"]) for one in report["requests"]} == {(200, "done")}
    assert report["requests"][0]["body"]["messages"] == HELLO
    assert "authorization" not in report["requests"][0]["headers"]
    await http.delete("/requests")
    assert (await http.get("/requests")).json()["total"] == 0


async def test_the_command_runs_it_by_itself() -> None:
    command = (sys.executable, "-m", "maieutic_client.cli", "emulate", "anthropic", "--port", "0")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        word, url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().split()
        assert word == "ready"
        async with AsyncAnthropic(api_key="key", base_url=url) as sdk:
            answer = await sdk.messages.create(model="m", max_tokens=99, messages=HELLO)
        assert answer.content[0].type == "text"
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_a_port_that_is_taken_is_told(emulator: Emulator) -> None:
    port = emulator.url.rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "maieutic_client.cli", "emulate", "anthropic", "--port", port),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert told.startswith(f"Error: cannot listen on 127.0.0.1:{port}: ".encode())


@pytest.mark.parametrize("missing", ["tests.emulators.anthropic", "aiohttp"])
async def test_where_the_emulators_are_not_installed_the_command_says_so(missing: str) -> None:
    # None in the table of modules stands for one that is not installed.
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from maieutic_client.cli import main; main(['emulate', 'anthropic'])"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stderr=asyncio.subprocess.PIPE
    )
    _, told = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert f"the emulators are not installed here ({missing} is missing)" in told.decode()
    assert b"Traceback" not in told
