"""Turns of a whole backend that calls Claude: the emulator's faults become named outcomes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import TypeAlias

import pytest
import pytest_asyncio

from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.turn_service_pb2 import (
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TurnOutcome,
)
from maieutic_client import Maieutic
from services.agents.agents import claims, code_plan, verdicts
from services.agents.prompts import load_prompt
from services.agents.routing_slip import CODE_FILE
from tests.conversation.backend import backend
from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_plan import Rule
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTEMPTS = 4
TURNS = 40
CLAIM = "The battery lasts 12 hours."
LISTED = {"claims": [{"text": CLAIM, "quote": CLAIM}]}
JUDGED = {"verdicts": [{"claim": 1, "supporting": [], "contradicting": []}]}
PLANNED = {"files": [{"path": "a.md", "purpose": "Is one.", "interface": ""}], "assumptions": []}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[tuple[Emulator, Maieutic]]:
    """Start the emulator and one backend, which all tests here share."""
    async with anthropic_emulator() as emulator:
        settings = {"model_claude_api_key": "key", "model_claude_base_url": emulator.url}
        async with (
            backend(model_kind="claude", max_attempts=str(ATTEMPTS), **settings) as running,
            running.client() as client,
        ):
            yield emulator, client


@pytest.fixture
def emulator(running: tuple[Emulator, Maieutic]) -> Emulator:
    """The emulator without a plan."""
    running[0].plan = []
    running[0].forget()
    return running[0]


@pytest.fixture
def client(running: tuple[Emulator, Maieutic]) -> Maieutic:
    return running[1]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question and what its watcher saw."""

    session_id: str
    text: str
    begun: int
    """Attempts that the watcher saw begin."""
    voided: int
    """Those of them that had said something before the next one began."""
    shown: str
    """The deltas of the last attempt."""
    outcome: TurnOutcome


async def asked(client: Maieutic, text: str) -> Asked:
    """Ask in a session of its own, and watch to the end."""
    session = await client.sessions.create()
    begun, voided, shown = 0, 0, ""
    async with client.turns.stream(session.session_id, text, timeout=60) as stream:
        async for frame in stream:
            if frame.HasField("started"):
                begun, voided, shown = begun + 1, voided + bool(shown), ""
            shown += frame.delta.text
    assert stream.outcome is not None
    return Asked(
        session_id=session.session_id,
        text=text,
        begun=begun,
        voided=voided,
        shown=shown,
        outcome=stream.outcome,
    )


async def many(client: Maieutic) -> list[Asked]:
    return await asyncio.gather(*(asked(client, f"Question {n}?") for n in range(TURNS)))


def answer_to(question: str) -> str:
    return f"You asked, as message 1: {question}"


async def test_a_storm_of_429_and_529_ends_every_turn_by_name_after_its_attempts(
    emulator: Emulator, client: Maieutic
) -> None:
    """Those beside conversations, too: a Socratic turn has an analysis beside it."""
    emulator.plan = [
        Rule(status=429, retry_after=0.1, every=2),
        Rule(status=529, retry_after=0.1),
    ]
    kinds = [answered, analysed, coded, questioned] * (TURNS // 8)
    ended = [outcome for one in await gathered(client, kinds) for outcome in one]
    assert len(ended) == len(kinds) // 4 * 5
    assert {(o.state, o.reason) for o in ended} == {(TURN_STATE_FAILED, "MODEL_UNAVAILABLE")}
    assert {o.attempts for o in ended} == {ATTEMPTS}
    assert len(emulator.requests) == ATTEMPTS * len(ended)
    assert waits(emulator) >= 0.1


Begin: TypeAlias = Callable[[Maieutic, str], Awaitable[Sequence[TurnOutcome]]]


async def gathered(client: Maieutic, kinds: Sequence[Begin]) -> list[Sequence[TurnOutcome]]:
    return await asyncio.gather(*(begin(client, f"Question {n}?") for n, begin in enumerate(kinds)))


async def answered(client: Maieutic, text: str) -> Sequence[TurnOutcome]:
    return [(await asked(client, text)).outcome]


async def analysed(client: Maieutic, text: str) -> Sequence[TurnOutcome]:
    added = await client.documents.add("a.md", "A text.")
    session = await client.sessions.create(document_ids=[added.document.document_id])
    return [await client.turns.analyze(session, text=text, timeout=60).result()]


async def coded(client: Maieutic, text: str) -> Sequence[TurnOutcome]:
    session = await client.sessions.create()
    return [await client.turns.generate_code(session, text, timeout=60).result()]


async def questioned(client: Maieutic, text: str) -> Sequence[TurnOutcome]:
    """Return also how the analysis has ended that is made beside the question."""
    session = await client.sessions.create(mode=SESSION_MODE_SOCRATIC)
    ended: list[str] = []
    async with client.sessions.watch(session, timeout=60) as frames:
        await anext(frames)
        await client.turns.begin(session, text)
        async for frame in frames:
            ended += [frame.turn_id] * frame.HasField("turn_ended")
            if len(ended) == 2:
                break
    turns = [await client.turns.get(turn_id) for turn_id in ended]
    return [turn.outcome for turn in turns]


async def test_a_long_rate_limit_costs_no_attempt_and_the_others_do_not_ask_meanwhile(
    emulator: Emulator, client: Maieutic
) -> None:
    emulator.plan = [Rule(status=429, retry_after=2.5, times=1)]
    first = asyncio.create_task(asked(client, "Who is first?"))
    await wait_until(lambda: any(one.end for one in emulator.requests))
    turns = [await first, *await asyncio.gather(*(asked(client, f"{n}?") for n in range(10)))]
    assert {turn.outcome.state for turn in turns} == {TURN_STATE_COMPLETED}
    assert {turn.outcome.attempts for turn in turns} == {1}
    assert len(emulator.requests) == len(turns) + 1


async def test_a_storm_of_429_that_passes_costs_no_turn(
    emulator: Emulator, client: Maieutic
) -> None:
    emulator.plan = [Rule(status=429, retry_after=0.5, times=TURNS // 2)]
    outcomes = [one.outcome for one in await many(client)]
    assert {o.state for o in outcomes} == {TURN_STATE_COMPLETED}
    assert len(emulator.requests) == TURNS + TURNS // 2
    assert waits(emulator) >= 0.5


def waits(emulator: Emulator) -> float:
    """Return the shortest time between two calls of one turn."""
    starts: dict[str, list[float]] = {}
    for seen in emulator.requests:
        starts.setdefault(json.dumps(seen.body), []).append(seen.started)
    return min(after - before for times in starts.values() for before, after in pairwise(times))


async def test_a_stream_that_breaks_is_a_new_attempt_and_no_text_is_doubled(
    emulator: Emulator, client: Maieutic
) -> None:
    """Each turn's first stream breaks after some words, and some of the second ones."""
    emulator.plan = [
        Rule(breaks="reset", after=4, delay=0.02, every=2, times=TURNS // 2),
        Rule(breaks="error", after=3, delay=0.02, times=TURNS // 2),
        Rule(breaks="reset", after=5, delay=0.02, every=4, times=TURNS // 4),
    ]
    turns = await many(client)
    assert sum(turn.outcome.attempts for turn in turns) == len(emulator.requests)
    assert {turn.outcome.state for turn in turns} == {TURN_STATE_COMPLETED}
    assert [turn.outcome.text for turn in turns] == [answer_to(turn.text) for turn in turns]
    assert [turn.shown for turn in turns] == [answer_to(turn.text) for turn in turns]
    assert [turn.begun for turn in turns] == [turn.outcome.attempts for turn in turns]
    assert sum(turn.voided for turn in turns) >= TURNS // 2
    for turn in turns[:5]:
        said = [m async for m in client.sessions.messages(turn.session_id)]
        assert [(m.author, m.text) for m in said] == [
            (AUTHOR_AGENT, answer_to(turn.text)),
            (AUTHOR_USER, turn.text),
        ]


async def test_a_refusal_and_a_bad_key_end_the_turn_at_once(
    emulator: Emulator, client: Maieutic
) -> None:
    emulator.plan = [Rule(contains="secret", refusal="Not that."), Rule(status=401)]
    refused, rejected = [(await asked(client, text)).outcome for text in ("A secret?", "Hello?")]
    assert (refused.state, refused.reason) == (TURN_STATE_FAILED, "MODEL_REFUSED")
    assert refused.explanation == "Not that."
    assert (rejected.state, rejected.reason) == (TURN_STATE_FAILED, "MODEL_REJECTED")
    assert "API key" in rejected.explanation
    assert len(emulator.requests) == 2


async def test_a_wait_beyond_the_time_budget_ends_the_turn_at_once(
    emulator: Emulator, client: Maieutic
) -> None:
    # So short that the worker's gate makes other tests' turns wait, and hands none of them back.
    emulator.plan = [Rule(status=429, retry_after=1.5, times=1)]
    session = await client.sessions.create()
    budget = timedelta(seconds=1)
    outcome = await client.turns.stream(session, "Hello?", time_budget=budget).result()
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "MODEL_UNAVAILABLE")
    assert "rate limit" in outcome.explanation
    assert (outcome.attempts, len(emulator.requests)) == (1, 1)


async def test_a_cancelled_turn_closes_its_call(emulator: Emulator, client: Maieutic) -> None:
    emulator.plan = [Rule(breaks="hang", after=3)]
    session = await client.sessions.create()
    turn = await client.turns.begin(session.session_id, "Hello?")
    await wait_until(lambda: emulator.active == 1)
    cancelled = await client.turns.cancel(turn.turn_id)
    await wait_until(lambda: emulator.active == 0)
    assert emulator.requests[0].end == "left"
    assert cancelled.state == TURN_STATE_CANCELLED


async def test_the_next_turn_carries_the_conversation(emulator: Emulator, client: Maieutic) -> None:
    session = await client.sessions.create()
    for text in ("First?", "Second?"):
        async with client.turns.stream(session.session_id, text) as stream:
            await stream.result()
    roles = [message["role"] for message in emulator.requests[-1].body["messages"]]
    assert roles == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("step", "broken", "attempts"),
    [
        (verdicts.STEP, Rule(text="{no json"), 2),
        (verdicts.STEP, Rule(breaks="malformed", after=1), 2),
        (verdicts.STEP, Rule(refusal="Not that."), 1),
        (CODE_FILE, Rule(breaks="reset", after=1, text="# A"), 2),
        (CODE_FILE, Rule(refusal="Not that."), 1),
    ],
)
async def test_what_breaks_in_a_later_step_costs_no_step_before_it(
    emulator: Emulator, client: Maieutic, step: str, broken: Rule, attempts: int
) -> None:
    answers = {claims.STEP: LISTED, verdicts.STEP: JUDGED, code_plan.STEP: PLANNED}
    emulator.plan = [
        replace(broken, instructed=load_prompt(step, 1).text, times=1),
        *(
            Rule(instructed=load_prompt(one, 1).text, text=json.dumps(answer))
            for one, answer in answers.items()
        ),
    ]
    begin, first = (coded, code_plan.STEP) if step == CODE_FILE else (analysed, claims.STEP)
    (outcome,) = await begin(client, CLAIM)
    refused = (TURN_STATE_FAILED, "MODEL_REFUSED")
    expected = refused if broken.refusal else (TURN_STATE_COMPLETED, "")
    assert (outcome.state, outcome.reason) == expected
    assert outcome.attempts == attempts
    assert len(emulator.requests) == attempts + 1
    assert outcome.usage[0].step == first
