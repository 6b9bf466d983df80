"""Tools that a team's own server has, and everything that may be wrong with one."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from maieutic.tools.v1.tool_service_pb2 import CallToolRequest, CallToolResponse, Tool
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnOutcome
from services.agents.adapters import tool_servers
from services.agents.adapters.tool_servers import (
    REFRESH_SECONDS,
    ToolServerOptions,
    pause_after,
)
from services.agents.agents.listed_tools import MOST_TOOLS, listed
from services.agents.entry_points import ExtensionOptions, load_extensions
from services.agents.ports import ToolResult
from services.runtime.channel import ChannelOptions
from services.runtime.errors import Unauthenticated
from services.runtime.identity import Identity, Signer, Verifier
from services.runtime.keyring import KeyRing
from services.runtime.settings import BadSettings
from tests.agents.listening import Listening
from tests.fakes.tools import Context, ToolBench, told, tool_bench
from tests.fakes.workers import TENANT, USER, Office, office, public_pem
from tests.waiting import wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "tool_server.py"
KEY = Ed25519PrivateKey.generate()
AWAY = "The tool cannot be used for the moment."
LOOK = {"name": "far__look", "input": {"word": "tide"}}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers wait for the lists at their start as long as a busy machine takes."""
    monkeypatch.setattr(tool_servers, "START_SECONDS", 30.0)


def at(address: str, name: str = "far", **options: Any) -> ExtensionOptions:
    return ExtensionOptions(servers=ToolServerOptions(addresses={name: address}, **options))


@asynccontextmanager
async def beside(bench: ToolBench, model: Listening, **options: Any) -> AsyncIterator[Office]:
    """Workers beside the tool server `far`."""
    async with (
        tool_bench(bench, KEY) as server,
        office(model, key=KEY, extensions=at(server.address, **options)) as place,
    ):
        yield place


async def ended(place: Office, **fields: Any) -> TurnOutcome:
    await place.ask("What is there?", **fields)
    return (await place.finished()).outcome


async def told_to(bench: ToolBench, call: dict[str, Any] = LOOK, **options: Any) -> ToolResult:
    """Return what the model is told of one call; the turn must complete whatever that is."""
    model = Listening(calls=[[call]])
    async with beside(bench, model, **options) as place:
        assert (await ended(place)).state == TURN_STATE_COMPLETED
    ((result,),) = model.told
    return result


def offered(model: Listening) -> list[str]:
    return [tool.name for tool in model.asked[-1].tools if "__" in tool.name]


async def offers(place: Office, model: Listening, name: str) -> None:
    """Wait until turns are offered this tool, and no other of the server's."""

    async def offering() -> bool:
        await ended(place)
        return offered(model) == [name]

    await wait_until(offering)


async def test_the_examples_server_answers_a_model_for_its_turns_tenant(tmp_path: Path) -> None:
    keys = tmp_path / "public-keys.json"
    keys.write_text(json.dumps({"agents": public_pem(KEY)}))
    command = [sys.executable, str(EXAMPLE), "127.0.0.1:0", str(keys)]
    calls = [
        [
            {"name": "plant__level", "input": {"reservoir": "north"}},
            {"name": "plant__level", "input": {"reservoir": "west"}},
        ]
    ]
    model = Listening(calls=calls, text="It is 1.42 m.")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220, S603
    try:
        assert server.stdout is not None
        ready = await asyncio.to_thread(server.stdout.readline)
        address = f"127.0.0.1:{ready.split()[1]}"
        async with office(model, key=KEY, extensions=at(address, "plant")) as place:
            turn_id = await place.ask("How high is it?")
            assert (await place.finished()).outcome.text == "It is 1.42 m."
            frames = place.store.turns[turn_id].log
        # Workers that sign with another key are told nothing.
        stranger = Listening(calls=calls)
        async with office(stranger, extensions=at(address, "plant")) as place:
            assert (await ended(place)).state == TURN_STATE_COMPLETED
    finally:
        server.terminate()
        server.wait(timeout=10)
    assert TENANT == "acme"
    level, missing = model.told[0]
    assert (level.text, level.failed) == ("north: 1.42 m", False)
    assert (missing.text, missing.failed) == ("There is no reservoir 'west'.", True)
    notices = [(f.notice.code, f.notice.text) for f in frames if f.HasField("notice")]
    assert notices == [("USING_TOOL", "Reading the level")] * 2
    assert [one.text for one in stranger.told[0]] == [AWAY, AWAY]


async def test_a_call_says_for_whom_it_is_and_its_token_opens_no_other_door() -> None:
    bench, model = ToolBench(), Listening(calls=[[LOOK, LOOK]])
    async with beside(bench, model) as place:
        turn_id = await place.ask("What is there?")
        job = (await place.finished()).job
    first, second = bench.requests
    assert (first.tenant, first.user_id, first.turn_id) == (TENANT, USER, turn_id)
    assert first.session_id == job.message.session_id
    assert (first.name, json.loads(first.input)) == ("look", {"word": "tide"})
    assert len({first.call_id, second.call_id}) == 2
    listing, *calls = bench.callers
    assert listing == Identity(service="agents")
    assert set(calls) == {Identity(service="agents", tenant=TENANT, user=USER)}
    ring = KeyRing.generate(["agents"])
    token = ring.signer("agents").for_audience("maieutic-tools/far").token(TENANT, USER)
    for verifier in (ring.verifier(), Verifier(ring.public, audience="maieutic-tools/near")):
        with pytest.raises(Unauthenticated):
            verifier.verify(token)
    assert isinstance(ring.signer("agents"), Signer)


async def test_a_slow_tool_is_given_up_and_the_turn_goes_on() -> None:
    bench, timeout = ToolBench(answer=forever), 0.025
    while not bench.requests:  # a machine that is busy may need longer to bring the call at all
        timeout *= 2
        result = await told_to(bench, timeout=timeout)
        assert (result.text, result.failed) == ("The tool did not answer in time.", True)
    await bench.cancelled.wait()


async def forever(request: CallToolRequest, context: Context) -> CallToolResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "The tool refuses: say which one"),
        (grpc.StatusCode.PERMISSION_DENIED, "The tool refuses: say which one"),
        (grpc.StatusCode.NOT_FOUND, "The tool refuses: say which one"),
        (grpc.StatusCode.UNIMPLEMENTED, AWAY),
        (grpc.StatusCode.INTERNAL, AWAY),
        (grpc.StatusCode.CANCELLED, AWAY),
        (grpc.StatusCode.UNKNOWN, AWAY),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "The tool did not answer in time."),
    ],
)
async def test_an_error_of_a_tool_is_told_to_the_model_as_far_as_it_is_meant_for_it(
    code: grpc.StatusCode, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(request: CallToolRequest, context: Context) -> CallToolResponse:
        await context.abort(code, "say which one")

    result = await told_to(ToolBench(answer=refuse))
    assert (result.text, result.failed) == (text, True)
    logged = [one.getMessage() for one in caplog.records if one.name.startswith("services.agents")]
    assert [one for one in logged if code.name in one], logged
    assert "say which one" not in " ".join(logged), "it may repeat what the user has said"


async def test_a_server_that_stumbles_is_asked_again_under_the_same_call_id() -> None:
    bench = ToolBench()

    async def second_time(request: CallToolRequest, context: Context) -> CallToolResponse:
        if len(bench.requests) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return CallToolResponse(text="Now.")

    bench.answer = second_time
    assert (await told_to(bench)).text == "Now."
    assert len({request.call_id for request in bench.requests}) == 1


@pytest.mark.parametrize("failed", [False, True])
async def test_a_huge_result_is_cut_and_one_over_the_limit_is_told_as_such(failed: bool) -> None:  # noqa: FBT001
    async def long(request: CallToolRequest, context: Context) -> CallToolResponse:
        return CallToolResponse(text="x" * int(request.input[10:-2]), failed=failed)

    bench, model = ToolBench(answer=long), Listening()
    sizes = (60_000, 3_000_000)
    calls = [{"name": "far__look", "input": {"word": str(size)}} for size in sizes]
    model = Listening(calls=[calls])
    async with beside(bench, model) as place:
        assert (await ended(place)).state == TURN_STATE_COMPLETED
    cut, refused = model.told[0]
    assert len(cut.text) < 21_000
    assert cut.failed is failed
    assert refused.text.startswith("The tool refuses: ")
    assert "larger than max" in refused.text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"word": float("nan")}, "The input cannot be written as JSON."),
        ({"word": "x" * 70_000}, "The input is too long: at most 65536 bytes of JSON."),
        (None, "The input is malformed: the whole: Input should be a valid dictionary."),
    ],
)
async def test_input_that_is_no_json_or_too_long_is_not_sent(given: Any, text: str) -> None:
    bench = ToolBench()
    result = await told_to(bench, {"name": "far__look", "input": given})
    assert (result.text, result.failed) == (text, True)
    assert bench.requests == []


async def test_half_a_character_in_the_input_reaches_the_server_as_json() -> None:
    async def answer(request: CallToolRequest, context: Context) -> CallToolResponse:
        return CallToolResponse(text=request.input)

    result = await told_to(ToolBench(answer=answer), LOOK | {"input": {"word": "\ud800"}})
    assert json.loads(result.text) == {"word": "\ud800"}


async def test_a_cancelled_turn_cancels_its_call() -> None:
    bench = ToolBench(answer=forever)
    async with beside(bench, Listening(calls=[[LOOK]])) as place:
        turn_id = await place.ask("What is there?")
        await wait_until(lambda: bool(bench.requests))
        place.store.fence_off(turn_id)
        await asyncio.wait_for(bench.cancelled.wait(), 10)


async def test_a_call_has_no_more_time_than_its_turn() -> None:
    bench = ToolBench()
    async with beside(bench, Listening(calls=[[LOOK]])) as place:
        job = place.job("What is there?")
        job.time_budget.FromSeconds(5)
        await place.publish(job)
        assert (await place.finished()).outcome.state == TURN_STATE_COMPLETED
    assert 0 < bench.seconds_given <= 5


async def test_a_server_that_is_away_at_the_start_comes_in_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_servers, "START_SECONDS", 0.0)
    address, bench, model = f"unix:{tmp_path / 'far'}", ToolBench(), Listening()
    async with office(model, key=KEY, extensions=at(address)) as place:
        assert (await ended(place)).state == TURN_STATE_COMPLETED
        assert offered(model) == []
        async with tool_bench(bench, KEY, listen=address):
            await offers(place, model, "far__look")
        # Away again: it stays on offer, a call says that it is away.
        model.model.default = Listening(calls=[[LOOK]]).model.default
        assert (await ended(place)).state == TURN_STATE_COMPLETED
        assert [one.text for one in model.told[0]] == [AWAY]


def test_a_server_that_was_away_for_days_is_asked_again_like_any_other() -> None:
    waits = [pause_after(failures) for failures in (*range(9), 20_000)]
    assert waits[0] == REFRESH_SECONDS
    assert sorted(waits[1:]) == waits[1:]
    assert (waits[1], waits[-2], waits[-1]) == (1.0, 30.0, 30.0)


async def test_a_server_that_does_not_know_a_tool_any_more_is_asked_for_its_tools_again() -> None:
    async def unknown(request: CallToolRequest, context: Context) -> CallToolResponse:
        await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such tool")

    bench, model = ToolBench(answer=unknown), Listening(calls=[[LOOK]])
    async with beside(bench, model) as place:
        bench.tools = [told("see")]
        await ended(place)
        await offers(place, model, "far__see")


async def test_what_is_wrong_with_one_tool_is_logged_and_the_others_are_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = ToolBench(tools=[told("bad", schema="{"), told("look"), told("bare", schema="")])
    model = Listening()
    async with beside(bench, model) as place:
        await ended(place)
    assert offered(model) == ["far__look", "far__bare"]
    assert [one.schema for one in model.asked[0].tools if one.name == "far__bare"] == [
        {"type": "object", "properties": {}}
    ]
    (logged,) = [one for one in caplog.records if one.name == tool_servers.__name__]
    assert logged.getMessage() == "tool server far: 'bad': the schema is not valid JSON"


def deep(levels: int) -> str:
    return '{"type": "object", "properties": {"a": ' * levels + "{}" + "}}" * levels


@pytest.mark.parametrize(
    ("tool", "problem"),
    [
        (told(""), "a name has letters"),
        (told("a b"), "a name has letters"),
        (told("a" * 41), "a name has letters"),
        (told(description=" "), "a description has 1 to 2000 characters"),
        (told(description="x" * 2001), "a description has"),
        (told(schema="[]"), 'an object of the type "object"'),
        (told(schema='{"type": "string"}'), 'an object of the type "object"'),
        (told(schema="[" * 16_000), "not valid JSON"),
        (told(schema='{"type": "object", "x": NaN}'), "not valid JSON"),
        (told(schema='{"type": "object", "x": "' + "x" * 16_400 + '"}'), "at most 16384 bytes"),
        (told(schema=deep(9)), "deeper than 8 levels"),
        (told(schema='{"type": "object", "anyOf": [{}]}'), "may not have anyOf"),
        (told(schema='{"type": "object", "$ref": "#/x"}'), "refers to another one"),
        (told(schema='{"type": "object", "properties": []}'), "a property has"),
        (told(schema='{"type": "object", "properties": {"a b": {}}}'), "a property has"),
        (told(schema='{"type": "object", "properties": {"a": 1}}'), "is no object"),
        (told(schema='{"type": "object", "properties": {"a": {"type": "x"}}}'), "type in the"),
        (told(schema='{"type": "object", "properties": {"a": {"type": [{}]}}}'), "type in the"),
        (told(schema='{"type": "object", "required": ["a", "a"]}'), "required in the schema"),
        (told(schema='{"type": "object", "required": "a"}'), "required in the schema"),
        (told(schema='{"type": "object", "description": 1}'), "a description in the schema"),
        (told(schema='{"type": "object", "description": "\\ud800"}'), "half a character"),
        (told(schema='{"type": "object", "enum": []}'), "an enum in the schema"),
        (told(schema='{"type": "object", "enum": [[]]}'), "a value of an enum"),
        (told(schema='{"type": "object", "enum": [1e999]}'), "an infinite number"),
        (told(schema='{"type": "object", "properties": {"a": {"anyOf": []}}}'), "anyOf in the"),
    ],
)
def test_a_tool_that_would_spoil_a_models_request_is_left_out(tool: Tool, problem: str) -> None:
    good, problems = listed("far", [tool])
    assert list(good) == []
    assert problem in problems[0]


def test_of_a_schema_only_what_is_understood_is_told() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "title": "Left out",
        "additionalProperties": {"type": "string"},
        "required": ["one"],
        "properties": {
            "one": {"type": ["string", "null"], "minLength": 1, "pattern": "(", "format": 3},
            "two": {"type": "array", "items": {"enum": ["a", 1, None]}, "uniqueItems": "x"},
            "three": {"anyOf": [{"type": "integer"}, {"type": "boolean"}], "oneOf": 5},
        },
    }
    (tool,), problems = listed("far", [told(schema=json.dumps(schema), notice="a\x1b[31mb\n")])
    assert list(problems) == []
    assert tool.told.schema == {
        "type": "object",
        "additionalProperties": True,
        "required": ["one"],
        "properties": {
            "one": {"type": ["string", "null"]},
            "two": {"type": "array", "items": {"enum": ["a", 1, None]}},
            "three": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        },
    }
    assert tool.notice == "a[31mb"


def test_a_server_has_so_many_tools_and_each_once() -> None:
    tools = [told(f"t{number}") for number in range(MOST_TOOLS - 1)]
    good, problems = listed("far", [*tools, told("t0", description="Another"), told("late")])
    assert len(good) == MOST_TOOLS - 1
    assert good[0].told.description == "Looks."
    assert list(problems) == [
        "'t0': it is there twice, and the first one is used",
        f"of {MOST_TOOLS + 1} tools the first {MOST_TOOLS} are used",
    ]


@pytest.mark.parametrize("name", ["", "Far", "far_", "a__b", "x" * 21])
def test_a_server_whose_name_cannot_be_a_prefix_is_named_at_the_start(name: str) -> None:
    with pytest.raises(BadSettings, match="MAIEUTIC_EXTENSIONS_SERVERS_ADDRESSES"):
        load_extensions(at("127.0.0.1:1", name))


def test_a_server_that_is_not_ours_is_not_pinged_more_often_than_servers_allow() -> None:
    assert ToolServerOptions().channel.keepalive > 300 > ChannelOptions().keepalive
