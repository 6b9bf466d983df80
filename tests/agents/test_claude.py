"""The Claude adapter on the real SDK, against an emulator of the API."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest
from anthropic import APIStatusError, AsyncAnthropic
from opentelemetry.sdk.trace import SpanProcessor

from maieutic.v1.turn_service_pb2 import TURN_STATE_FAILED
from services.agents.adapters.claude import ClaudeModel, claude
from services.agents.adapters.claude_errors import model_error
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.errors import (
    ContextTooLarge,
    ModelError,
    ModelOverloaded,
    ModelRefused,
    ModelRejected,
    ModelSilent,
    ModelUnavailable,
)
from services.agents.ports import (
    Author,
    ModelEvent,
    ModelMessage,
    ModelRequest,
    ModelUsage,
    TextDelta,
)
from services.agents.turn_work import MOST_SECONDS
from services.runtime.telemetry import TelemetryOptions, span, telemetry
from tests.backends.process import free_port
from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_answers import texts_of
from tests.emulators.anthropic_plan import Call, Rule
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import office
from tests.waiting import wait_until

PAST = format_datetime(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with anthropic_emulator() as running:
        yield running


def opened(
    emulator: Emulator, *, connections: int = 250, **options: Any
) -> AbstractAsyncContextManager[ClaudeModel]:
    chosen = ClaudeOptions(api_key="secret-key", base_url=emulator.url, **options)
    return claude(chosen, connections=connections)


@pytest.fixture
async def model(emulator: Emulator) -> AsyncIterator[ClaudeModel]:
    async with opened(emulator) as ready:
        yield ready


def said(author: Author, text: str) -> ModelMessage:
    return ModelMessage(author=author, text=text)


def request_for(*messages: ModelMessage | str, **fields: Any) -> ModelRequest:
    """Texts are the user's."""
    given = (said(Author.USER, one) if isinstance(one, str) else one for one in messages)
    return ModelRequest(turn_id="turn-1", system="Answer well.", messages=tuple(given), **fields)


async def events_of(model: ClaudeModel, request: ModelRequest) -> list[ModelEvent]:
    async with model.stream(request) as events:
        return [event async for event in events]


async def text_of(model: ClaudeModel, request: ModelRequest) -> str:
    events = await events_of(model, request)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def error_of(model: ClaudeModel, request: ModelRequest | None = None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await events_of(model, request or request_for("Hello?"))
    return caught.value


# --- the request -----------------------------------------------------------------------------


async def test_what_changes_from_turn_to_turn_comes_after_the_cached_instructions(
    emulator: Emulator, model: ClaudeModel
) -> None:
    await events_of(model, request_for("Why tides?", grounding="<passages/>"))
    body = emulator.requests[0].body
    assert body["system"] == [
        {"type": "text", "text": "Answer well.", "cache_control": {"type": "ephemeral"}}
    ]
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<passages/>"},
                {"type": "text", "text": "Why tides?"},
            ],
        }
    ]


async def test_the_user_speaks_first_and_the_authors_take_turns(
    emulator: Emulator, model: ClaudeModel
) -> None:
    window = (
        said(Author.AGENT, "What is it for?"),
        "One",
        "  ",
        "two.",
        said(Author.AGENT, "First."),
        said(Author.AGENT, "Second."),
        "And then?",
    )
    await events_of(model, request_for(*window))
    *earlier, last = emulator.requests[0].body["messages"]
    assert [(message["role"], *texts_of(message)) for message in earlier] == [
        ("user", "[The user has said nothing before this.]"),
        ("assistant", "What is it for?"),
        ("user", "One\n\ntwo."),
        ("assistant", "First.\n\nSecond."),
    ]
    assert last["content"] == [{"type": "text", "text": "And then?"}]


@pytest.mark.parametrize("messages", [(), ("Hello?", said(Author.AGENT, "Yes?")), (" ",)])
async def test_a_window_without_a_question_is_rejected_before_any_call(
    emulator: Emulator, model: ClaudeModel, messages: tuple[ModelMessage | str, ...]
) -> None:
    assert isinstance(await error_of(model, request_for(*messages)), ModelRejected)
    assert emulator.requests == []


async def test_the_options_reach_the_api(emulator: Emulator) -> None:
    async with opened(emulator, model="claude-test", effort="low", max_tokens=99) as model:
        await events_of(model, request_for("Hello?"))
        await events_of(model, request_for("Hello?", max_tokens=7))
        await events_of(model, request_for("Hello?", max_tokens=1000))
    first = emulator.requests[0].body
    assert (first["model"], first["output_config"]) == ("claude-test", {"effort": "low"})
    assert [seen.body["max_tokens"] for seen in emulator.requests] == [99, 7, 99]


async def test_only_our_spans_tell_of_a_call_and_no_trace_ids_leave(
    emulator: Emulator, model: ClaudeModel
) -> None:
    async with (
        telemetry("agents", TelemetryOptions(), span_processors=[SpanProcessor()]),
        AsyncAnthropic(api_key="key", base_url=emulator.url, max_retries=0) as untamed,
    ):
        with span("chat"):
            await events_of(model, request_for("Hello?"))
            await untamed.messages.create(
                model="m", max_tokens=9, messages=[{"role": "user", "content": "Hello?"}]
            )
    ours, control = emulator.requests
    assert "traceparent" not in ours.headers
    assert "traceparent" in control.headers
    assert not model._client.open_telemetry["traces"]["enabled"]


@pytest.mark.parametrize("end", ["", "/"])
async def test_the_api_may_be_behind_a_path(end: str) -> None:
    options = ClaudeOptions(api_key="key", base_url=f"https://gateway.test/claude{end}")
    async with claude(options, connections=1) as model:
        assert model._url == "https://gateway.test/claude/v1/messages"


# --- usage -----------------------------------------------------------------------------------


async def test_cached_instructions_are_counted_as_input_and_as_cached(model: ClaudeModel) -> None:
    request = ModelRequest(
        turn_id="t", system="word " * 2000, messages=(said(Author.USER, "Hello?"),)
    )
    first, second = [(await events_of(model, request))[-1] for _ in range(2)]
    assert isinstance(first, ModelUsage)
    assert isinstance(second, ModelUsage)
    assert (first.input_tokens, first.cached_tokens) == (2001, 0)
    assert (first.cache_write_tokens, second.cache_write_tokens) == (2000, 0)
    assert (second.input_tokens, second.cached_tokens) == (2001, 2000)
    assert second.output_tokens == 6


@pytest.mark.parametrize("rule", [Rule(breaks="end", after=2), Rule(refusal="No poems.")])
async def test_an_attempt_without_an_answer_has_consumed_what_claude_told(
    emulator: Emulator, model: ClaudeModel, rule: Rule
) -> None:
    emulator.plan = [rule]
    async with office(model) as place:
        failure = await place.failure(await place.ask("Why do ships float?"))
    (usage,) = failure.usage
    assert usage.input_tokens > 0
    assert usage.cost_micros == 2 * usage.input_tokens + 10 * usage.output_tokens


async def test_thoughts_are_no_part_of_the_answer(emulator: Emulator, model: ClaudeModel) -> None:
    emulator.plan = [Rule(thinking="Let me see now.", text="Yes.")]
    assert await text_of(model, request_for("Hello?")) == "Yes."


async def test_a_model_that_thinks_for_too_long_is_out_of_patience(emulator: Emulator) -> None:
    emulator.plan = [Rule(thinking="word " * 100, delay=0.02)]
    async with opened(emulator, first_token_timeout=0.3) as model:
        assert "in time" in str(await error_of(model))


# --- ends of an answer -----------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
async def test_an_answer_that_is_too_long_is_kept_and_marked(
    emulator: Emulator, model: ClaudeModel, reason: str
) -> None:
    emulator.plan = [Rule(text="as far as it", stop_reason=reason)]
    *earlier, usage = await events_of(model, request_for("Tell me all."))
    assert "".join(one.text for one in earlier if isinstance(one, TextDelta)) == "as far as it"
    assert isinstance(usage, ModelUsage)
    assert usage.cut


async def test_a_cut_answer_completes_its_turn_with_a_notice(emulator: Emulator) -> None:
    async with opened(emulator, max_tokens=3) as model, office(model) as place:
        turn_id = await place.ask("Why is that so?")
        outcome = (await place.finished()).outcome
        assert outcome.text == "You asked, as"
        assert [frame.notice.code for frame in place.store.turns[turn_id].log][-1] == "ANSWER_CUT"


async def test_a_form_that_is_cut_fails_its_turn_by_name_and_is_not_paid_for_again(
    emulator: Emulator, model: ClaudeModel
) -> None:
    emulator.plan = [Rule(text='{"specifications": [{"category": ', stop_reason="max_tokens")]
    async with office(model) as place:
        await place.publish(place.job("It must be fast.", steps=["context"]), "analysis")
        outcome = (await place.finished()).outcome
        assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "MODEL_CUT")
        assert len(emulator.requests) == len(outcome.usage) == 1


@pytest.mark.parametrize(
    ("rule", "kind", "words"),
    [
        (Rule(refusal="No such things.", text="Well,"), ModelRefused, "No such things."),
        (Rule(text="", stop_reason="pause_turn"), ModelSilent, "before it said a word"),
        (Rule(text=""), ModelSilent, "before it said a word"),
        (Rule(text=" \n\n "), ModelSilent, "before it said a word"),
        (Rule(text="", stop_reason="max_tokens"), ModelRejected, "MAX_TOKENS"),
        (
            Rule(calls=[Call(name="look", json='{"wo')], stop_reason="max_tokens"),
            ModelRejected,
            "MAX_TOKENS",
        ),
        (
            Rule(text="", stop_reason="model_context_window_exceeded"),
            ContextTooLarge,
            "ask in a new one",
        ),
    ],
    ids=[
        *("refusal", "pause", "silence", "blanks", "silence at max_tokens"),
        *("a call alone that is cut", "silence at the window's end"),
    ],
)
async def test_an_end_without_an_answer_has_a_name(
    emulator: Emulator, model: ClaudeModel, rule: Rule, kind: type[ModelError], words: str
) -> None:
    emulator.plan = [rule]
    error = await error_of(model)
    assert type(error) is kind
    assert words in str(error)


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_what_passes_may_be_tried_again_and_the_sdk_does_not_try_itself(
    emulator: Emulator, model: ClaudeModel, status: int
) -> None:
    emulator.plan = [Rule(status=status, retry_after=7.5)]
    error = await error_of(model)
    assert isinstance(error, ModelUnavailable)
    assert error.retry_after == 7.5
    assert len(emulator.requests) == 1


def test_the_time_to_wait_may_be_a_date() -> None:
    error = model_error(rate_limited(format_datetime(datetime.now(UTC) + timedelta(hours=1))))
    assert isinstance(error, ModelUnavailable)
    assert error.retry_after is not None
    assert 3000 < error.retry_after <= 3600


@pytest.mark.parametrize("header", ["", "soon", "-1", "nan", "inf", PAST])
def test_a_time_to_wait_that_means_nothing_is_none(header: str) -> None:
    error = model_error(rate_limited(header))
    assert isinstance(error, ModelUnavailable)
    assert error.retry_after is None


def rate_limited(header: str) -> APIStatusError:
    response = httpx2.Response(
        429, headers={"retry-after": header}, request=httpx2.Request("POST", "http://here")
    )
    return APIStatusError("no", response=response, body=None)


async def test_a_time_to_wait_without_end_is_told_as_more_than_any_turn_has(
    emulator: Emulator, model: ClaudeModel
) -> None:
    emulator.plan = [Rule(status=429, retry_after=1e300)]
    async with office(model) as place:
        failure = await place.failure(await place.ask("Hello?"))
        assert (failure.reason, failure.retryable) == ("MODEL_UNAVAILABLE", True)
        assert failure.retry_after.ToSeconds() == MOST_SECONDS


async def test_an_error_that_names_no_time_leaves_the_wait_to_the_worker(
    emulator: Emulator, model: ClaudeModel
) -> None:
    emulator.plan = [Rule(status=529)]
    error = await error_of(model)
    assert isinstance(error, ModelUnavailable)
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "prompt is too long: 5 tokens > 4 maximum"),
        (401, "MAIEUTIC_MODEL_CLAUDE_API_KEY"),
        (402, "cannot pay"),
        (403, "MAIEUTIC_MODEL_CLAUDE_API_KEY"),
        (404, "MAIEUTIC_MODEL_CLAUDE_MODEL"),
        (413, "cannot read so much"),
        (422, "Change the message"),
    ],
)
async def test_what_stays_is_rejected_with_what_to_do(
    emulator: Emulator, model: ClaudeModel, status: int, words: str
) -> None:
    emulator.plan = [Rule(status=status, message="prompt is too long: 5 tokens > 4 maximum")]
    error = await error_of(model)
    assert isinstance(error, ModelRejected)
    assert words in str(error)
    assert "secret-key" not in str(error)


async def test_a_conversation_beyond_what_claude_reads_is_rejected(model: ClaudeModel) -> None:
    error = await error_of(model, request_for("word " * 200_001))
    assert isinstance(error, ModelRejected)
    assert "200003 tokens > 200000 maximum" in str(error)


@pytest.mark.parametrize("breaks", ["reset", "end", "error", "malformed"])
@pytest.mark.parametrize("after", [0, 3])
async def test_a_stream_that_breaks_may_be_tried_again(
    emulator: Emulator, model: ClaudeModel, breaks: Any, after: int
) -> None:
    emulator.plan = [Rule(breaks=breaks, after=after, times=1)]
    seen: list[str] = []

    async def read() -> None:
        async with model.stream(request_for("Hello?")) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    seen.extend(event.text.split())

    with pytest.raises(ModelUnavailable):
        await read()
    # A reset may overtake what was sent before it.
    assert len(seen) <= after if breaks == "reset" else len(seen) == after
    assert await text_of(model, request_for("Hello?")) == "You asked, as message 1: Hello?"


@pytest.mark.parametrize(
    ("error_type", "kind"),
    [
        ("overloaded_error", ModelOverloaded),
        ("rate_limit_error", ModelOverloaded),
        ("something_new", ModelUnavailable),
        ("invalid_request_error", ModelRejected),
    ],
)
async def test_an_error_in_the_stream_means_what_its_type_says(
    emulator: Emulator, model: ClaudeModel, error_type: str, kind: type[ModelError]
) -> None:
    emulator.plan = [Rule(breaks="error", after=2, error_type=error_type)]
    assert type(await error_of(model)) is kind


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    options = ClaudeOptions(api_key="key", base_url=f"http://127.0.0.1:{free_port()}")
    async with claude(options, connections=1) as model:
        assert isinstance(await error_of(model), ModelUnavailable)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(header_delay=60),
        Rule(first_delay=60, ping=0.02),
        Rule(breaks="hang", after=3, ping=0.02),
    ],
    ids=["no response", "pings and no word", "pings and no further word"],
)
async def test_patience_ends_although_the_server_pings(
    emulator: Emulator, model: ClaudeModel, rule: Rule
) -> None:
    # The first call of a process takes longer than this patience: the SDK still imports.
    await events_of(model, request_for("Hello?"))
    emulator.plan = [rule]
    seconds = 0.25
    while len(emulator.requests) < 2:  # on a busy machine it may end before the request is there
        seconds *= 2
        async with opened(emulator, first_token_timeout=seconds, token_timeout=0.3) as impatient:
            error = await error_of(impatient)
        assert isinstance(error, ModelUnavailable)
        assert "in time" in str(error)
    await wait_until(lambda: emulator.requests[-1].end == "left")
    assert len(emulator.requests) == 2


async def test_a_slow_answer_that_goes_on_is_waited_for(emulator: Emulator) -> None:
    emulator.plan = [Rule(text="word " * 25, delay=0.05)]
    async with opened(emulator, token_timeout=1.2) as model:
        assert await text_of(model, request_for("Still there?"))
    seen = emulator.requests[0]
    assert seen.ended - seen.started > 1.2


# --- one client ------------------------------------------------------------------------------


async def test_200_calls_at_once_share_the_client_and_do_not_wait_for_each_other(
    emulator: Emulator, model: ClaudeModel
) -> None:
    questions = [f"Question {number}?" for number in range(200)]
    emulator.going.clear()
    calls = [asyncio.create_task(text_of(model, request_for(one))) for one in questions]
    # No answer begins before the last request has come.
    await wait_until(lambda: emulator.active == 200, 30)
    emulator.going.set()
    answers = await asyncio.gather(*calls)
    assert answers == [f"You asked, as message 1: {one}" for one in questions]
    assert (emulator.peak, len(emulator.requests)) == (200, 200)


async def test_calls_one_after_the_other_share_a_connection(
    emulator: Emulator, model: ClaudeModel
) -> None:
    for _ in range(5):
        await events_of(model, request_for("Hello?"))
    assert len({seen.peer for seen in emulator.requests}) == 1


def hanging() -> Rule:
    return Rule(breaks="hang", after=3)


@pytest.mark.parametrize("rule", [Rule(header_delay=60), hanging()], ids=["before it", "amid it"])
async def test_a_call_that_is_cancelled_is_closed_at_the_server(
    emulator: Emulator, model: ClaudeModel, rule: Rule
) -> None:
    emulator.plan = [rule]
    call = asyncio.create_task(events_of(model, request_for("Hello?")))
    await wait_until(lambda: emulator.active == 1)
    await asyncio.sleep(0.1)
    assert emulator.active == 1
    call.cancel()
    await wait_until(lambda: emulator.active == 0)
    assert emulator.requests[0].end == "left"
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_that_is_left_early_is_closed_at_the_server(
    emulator: Emulator, model: ClaudeModel
) -> None:
    emulator.plan = [hanging()]
    async with model.stream(request_for("Hello?")) as events:
        await anext(aiter(events))
    await wait_until(lambda: emulator.requests[0].end == "left")


async def test_a_turn_that_is_fenced_stops_its_call(emulator: Emulator, model: ClaudeModel) -> None:
    emulator.plan = [hanging()]
    async with office(model) as place:
        turn_id = await place.ask("Hello?")
        await place.streaming(turn_id)
        place.store.fence_off(turn_id)
        await wait_until(lambda: emulator.active == 0)


async def test_what_the_user_says_is_in_no_log(
    emulator: Emulator, model: ClaudeModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = request_for("my-secret-word", grounding="my-secret-word")
    await events_of(model, secret)
    for rule in (Rule(status=400, message="my-secret-word"), hanging(), Rule(breaks="malformed")):
        emulator.plan = [rule]
        async with opened(emulator, token_timeout=0.1) as impatient:
            await error_of(impatient, secret)
    assert "Claude answered 400 invalid_request_error" in caplog.text
    assert "secret" not in caplog.text


async def test_passages_reach_claude_and_are_cited(emulator: Emulator, model: ClaudeModel) -> None:
    store = LiveStore()
    async with office(model, store=store) as place:
        store.document_ids.append(place.add_document("tides", "The moon & the sun make tides."))
        await place.ask("What makes the tides?")
        outcome = (await place.finished()).outcome
        assert "“The moon & the sun make tides.” [1]" in outcome.text
        assert [(c.number, c.document_name) for c in outcome.citations] == [(1, "tides")]
        (usage,) = outcome.usage
        assert usage.model == "claude-sonnet-5-5"
        assert usage.cost_micros == 2 * usage.input_tokens + 10 * usage.output_tokens
