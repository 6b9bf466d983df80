"""Workers beside the real session service on a real store."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from maieutic.v1.budget_pb2 import Budget, Spending
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    BUSY_POLICY_INTERRUPT,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_INTERRUPTED,
    TURN_STATE_OVER_BUDGET,
    TurnFrame,
)
from services.agents.adapters.scripted import Script
from services.agents.budget import UNLIMITED_ANSWER
from services.agents.main import agents_service
from services.agents.ports import Model
from services.agents.settings import AgentsSettings
from services.runtime.bus import Bus, Deliveries, OutgoingMessage
from services.runtime.memory import MemoryBus
from services.runtime.server import ServerOptions
from services.runtime.topology import maieutic_topology
from services.session.adapters import keys
from services.session.model import WINDOW_MESSAGES
from tests.agents.held_model import HeldModel
from tests.backends.redis import RedisServer
from tests.fakes.workers import BRISK
from tests.session.stack import Stack, User, session_stack, signer
from tests.waiting import wait_until

TEXT = " ".join(f"word{number}" for number in range(40))


class JobsApart:
    """The workers' bus: jobs on queues of its own, outcomes to everybody's."""

    def __init__(self, jobs: MemoryBus, results: Bus) -> None:
        self._jobs = jobs
        self._results = results

    async def publish(self, message: OutgoingMessage, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - the port's
        await self._results.publish(message, timeout=timeout)

    def consume(self, queue: str, *, prefetch: int) -> AbstractAsyncContextManager[Deliveries]:
        return self._jobs.consume(queue, prefetch=prefetch)

    async def check(self) -> None:
        await self._jobs.check()


@dataclass(kw_only=True)
class Conversation:
    """A user with a session, and workers that get a job when they are given it."""

    stack: Stack
    user: User
    session_id: str
    model: HeldModel
    jobs: MemoryBus

    async def ask(self, most: Budget | None = None, text: str = "Why?") -> str:
        """Begin a turn and give its first job to the workers; returns its id."""
        turn = await self.user.begin(self.session_id, text, most=most)
        await self.deliver(turn.turn_id)
        return turn.turn_id

    async def deliver(self, turn_id: str, *, nth: int = 1) -> None:
        body = (await self.stack.jobs.next(turn_id, nth=nth)).SerializeToString()
        await self.jobs.publish(
            OutgoingMessage(
                exchange="turns", routing_key="interactive", body=body, message_id=turn_id
            )
        )

    async def code(self) -> str:
        """Begin a turn that writes two files, and give it to the workers; returns its id."""
        files = [{"path": path, "purpose": "", "interface": ""} for path in ("a.py", "b.py")]
        self.model.default = Script(text=json.dumps({"files": files, "assumptions": []}))
        call = self.user.generate_code(self.session_id, "Code.")
        turn_id: str = (await call.read()).frame.turn_id
        await self.deliver(turn_id)
        return turn_id

    async def streaming(self, turn_id: str) -> None:
        async for response in self.user.watch(turn_id):
            if response.frame.HasField("delta"):
                return


@pytest.fixture
def model() -> HeldModel:
    return HeldModel(Script(text=TEXT, delay=0.02))


@pytest.fixture
async def conversation(
    valkey_server: RedisServer, tmp_path: Path, model: HeldModel
) -> AsyncIterator[Conversation]:
    address = f"unix:{tmp_path / 'session'}"
    server = ServerOptions(listen=address, stream_grace=0.1, grace=1.0)
    async with (
        session_stack(valkey_server.url, server=server) as stack,
        MemoryBus(maieutic_topology()) as jobs,
        working(address, JobsApart(jobs, stack.bus), model),
    ):
        user = stack.user()
        session = await user.create()
        yield Conversation(
            stack=stack, user=user, session_id=session.session_id, model=model, jobs=jobs
        )


@asynccontextmanager
async def working(address: str, bus: Bus, model: Model) -> AsyncIterator[None]:
    settings = AgentsSettings(
        server=ServerOptions(), session_address=address, recorder=BRISK, grace=2.0
    )
    async with agents_service(settings, bus=bus, model=model, signer=signer("agents")):
        yield


def shown(frames: list[TurnFrame]) -> str:
    """Return what the stream leaves on a screen before its outcome."""
    text = ""
    for frame in frames:
        if frame.HasField("started") or frame.HasField("snapshot"):
            text = frame.snapshot.text
        text += frame.delta.text
    return text


async def test_what_was_streamed_is_the_answer(conversation: Conversation) -> None:
    turn_id = await conversation.ask()
    frames = await conversation.user.frames(turn_id)
    assert frames[-1].outcome.state == TURN_STATE_COMPLETED
    assert shown(frames) == frames[-1].outcome.text == TEXT
    await conversation.stack.archived(turn_id)


async def test_a_cancelled_turn_stops_its_model_call(conversation: Conversation) -> None:
    conversation.model.going.clear()
    turn_id = await conversation.ask()
    await conversation.streaming(turn_id)
    await conversation.user.cancel(turn_id)
    await wait_until(lambda: turn_id in conversation.model.cancelled)
    frames = await conversation.user.frames(turn_id)
    assert frames[-1].outcome.state == TURN_STATE_CANCELLED
    assert TEXT.startswith(frames[-1].outcome.text)


async def test_a_turn_outlives_the_loss_of_the_whole_store_with_one_model_call(
    conversation: Conversation,
) -> None:
    conversation.model.going.clear()
    turn_id = await conversation.ask()
    await conversation.streaming(turn_id)
    await conversation.stack.redis.flushall()
    conversation.model.going.set()
    await wait_until(lambda: turn_id in conversation.stack.archive.finished)
    frames = await conversation.user.frames(turn_id)
    assert any(frame.HasField("snapshot") for frame in frames)
    assert shown(frames) == TEXT
    turn = await conversation.user.ended(turn_id)
    assert (turn.outcome.state, turn.outcome.text) == (TURN_STATE_COMPLETED, TEXT)
    assert conversation.model.calls[turn_id] == 1


async def test_a_turn_whose_log_is_lost_alone_says_its_text_again_and_ends(
    conversation: Conversation,
) -> None:
    conversation.model.going.clear()
    turn_id = await conversation.ask()
    await conversation.streaming(turn_id)
    await conversation.stack.redis.delete(keys.events_key(turn_id))
    conversation.model.going.set()
    frames = await conversation.user.frames(turn_id)
    assert frames[-1].outcome.text == TEXT
    turn = await conversation.user.ended(turn_id)
    assert (turn.attempt, conversation.model.calls[turn_id]) == (1, 1)
    assert shown(await conversation.user.frames(turn_id)) == TEXT


async def test_an_answer_is_committed_though_a_failover_lost_the_end_of_its_log(
    conversation: Conversation, model: HeldModel
) -> None:
    redis = conversation.stack.redis
    model.going.clear()
    turn_id = await conversation.ask()

    async def frames() -> list[TurnFrame]:
        entries: Any = await redis.xrange(keys.events_key(turn_id))
        return [TurnFrame.FromString(fields[b"f"]) for _, fields in entries]

    async def said() -> bool:
        return shown(await frames()) == TEXT

    await wait_until(said)
    newest: Any = await redis.xrevrange(keys.events_key(turn_id), count=1)
    await redis.xdel(keys.events_key(turn_id), newest[0][0])
    model.going.set()
    turn = await conversation.user.ended(turn_id)
    assert (turn.outcome.text, turn.attempt, model.calls[turn_id]) == (TEXT, 1, 1)
    assert shown(await frames()) == TEXT


async def test_a_job_that_comes_again_costs_no_second_call(conversation: Conversation) -> None:
    turn_id = await conversation.ask()
    await conversation.deliver(turn_id)
    await conversation.user.frames(turn_id)
    await conversation.deliver(turn_id)
    await conversation.stack.archived(turn_id)
    assert conversation.model.calls[turn_id] == 1


async def test_a_turn_that_is_interrupted_leaves_its_model_call(
    conversation: Conversation, model: HeldModel
) -> None:
    model.default = Script(text=" ".join(["word"] * 1000), delay=0.02)
    turn_id = await conversation.ask()
    await conversation.streaming(turn_id)
    user, session_id = conversation.user, conversation.session_id
    next_one = await user.begin(session_id, policy=BUSY_POLICY_INTERRUPT)
    await wait_until(lambda: turn_id in model.cancelled)
    model.default = Script(text="Done.")
    await conversation.deliver(next_one.turn_id)
    assert (await user.ended(next_one.turn_id)).outcome.text == "Done."
    frames = await user.frames(turn_id)
    assert frames[-1].outcome.state == TURN_STATE_INTERRUPTED
    assert shown(frames) == frames[-1].outcome.text
    assert [frame.HasField("outcome") for frame in frames].count(True) == 1
    assert model.calls[turn_id] == 1


async def test_the_model_reads_the_conversation_beyond_its_window(
    conversation: Conversation, model: HeldModel
) -> None:
    turns = WINDOW_MESSAGES // 2 + 1
    for number in range(turns):
        model.default = Script(text=f"Answer {number}.")
        turn_id = await conversation.ask()
        await conversation.stack.archived(turn_id)
    said: list[str] = []
    page = ""
    while page or not said:
        call = {"name": "get_session_conversation_history", "input": {"page": page}}
        model.default = Script(text="Well.", calls=[[call]])
        turn = await conversation.user.ended(await conversation.ask())
        assert turn.outcome.text == "Well."
        told = json.loads(model.told)
        said += [one["text"] for one in told["messages"] if one["author"] == "you"]
        page = told["next_page"]
    assert said == [f"Answer {number}." for number in reversed(range(turns))]


async def test_a_turn_without_a_budget_left_ends_before_its_first_call(
    conversation: Conversation,
) -> None:
    turn_id = await conversation.ask(Budget(tokens=100))
    outcome = (await conversation.user.frames(turn_id))[-1].outcome
    assert (outcome.state, outcome.reason) == (TURN_STATE_OVER_BUDGET, "TURN_BUDGET_SPENT")
    assert "has 100 of 100 tokens left" in outcome.explanation
    assert (outcome.text, outcome.attempts) == ("", 1)
    assert conversation.model.calls[turn_id] == 0
    await conversation.stack.archived(turn_id)
    row = conversation.stack.archive.finished[turn_id]
    assert row.outcome.state == TURN_STATE_OVER_BUDGET


async def test_an_answer_is_as_long_as_the_budget_lets_it_be(
    conversation: Conversation, model: HeldModel
) -> None:
    model.default = Script(text=" ".join(["word"] * 3000))
    turn_id = await conversation.ask(Budget(tokens=2000))
    frames = await conversation.user.frames(turn_id)
    assert "ANSWER_CUT" in [frame.notice.code for frame in frames]
    outcome = frames[-1].outcome
    (used,) = outcome.usage
    assert outcome.state == TURN_STATE_COMPLETED
    assert 256 <= used.output_tokens < 2000 - used.input_tokens


async def test_over_its_budget_in_a_late_round_a_turn_keeps_what_it_has_said(
    conversation: Conversation, model: HeldModel
) -> None:
    call = {"name": "get_session_conversation_history", "input": {}}
    model.default = Script(calls=[[call]], aloud="Let me look. ")
    # What the tool brings, the question among it, leaves no room for a second call.
    turn_id = await conversation.ask(Budget(tokens=15_000), text="Why? " * 5000)
    outcome = (await conversation.user.frames(turn_id))[-1].outcome
    assert (outcome.state, outcome.text) == (TURN_STATE_OVER_BUDGET, "Let me look. ")
    assert len(outcome.usage) == model.calls[turn_id] == 1
    message = (await conversation.user.all_messages(conversation.session_id))[-1]
    assert (message.text, message.partial) == ("Let me look. ", True)


async def test_what_a_round_has_not_consumed_is_there_for_the_next_one(
    conversation: Conversation, model: HeldModel
) -> None:
    model.default = Script(calls=[[{"name": "list_specifications", "input": {}}]] * 4, text="So.")
    turn_id = await conversation.ask(Budget(tokens=2 * UNLIMITED_ANSWER))
    outcome = (await conversation.user.frames(turn_id))[-1].outcome
    assert (outcome.state, outcome.text) == (TURN_STATE_COMPLETED, "So.")
    assert model.calls[turn_id] == 5, "of which two could be reserved at a time"


async def test_a_late_round_is_reserved_though_the_store_has_lost_the_turn(
    conversation: Conversation, model: HeldModel
) -> None:
    call = {"name": "get_session_conversation_history", "input": {}}
    model.default = Script(calls=[[call]], aloud="Let me look. ", text="So.")
    model.going.clear()
    turn_id = await conversation.ask(Budget(tokens=50_000))
    await conversation.streaming(turn_id)
    await conversation.stack.redis.flushall()
    model.going.set()
    await wait_until(lambda: turn_id in conversation.stack.archive.finished)
    turn = await conversation.user.ended(turn_id)
    assert turn.outcome.state == TURN_STATE_COMPLETED
    assert (model.calls[turn_id], len(turn.outcome.usage)) == (2, 2)


async def test_a_cancelled_turn_has_spent_what_its_call_had_told(
    conversation: Conversation, model: HeldModel
) -> None:
    user, session_id = conversation.user, conversation.session_id
    await user.update(session_id, budget=Budget(tokens=50_000))
    model.default = Script(text=TEXT, fail="hang", fail_after=3, tells_input=True)
    turn_id = await conversation.ask()
    await conversation.streaming(turn_id)
    reserved = (await user.get(session_id)).spending
    assert reserved.reserved_tokens > UNLIMITED_ANSWER
    assert reserved.tokens == 0
    await user.cancel(turn_id)

    async def settled() -> bool:
        return (await user.get(session_id)).spending == Spending(tokens=1)

    await wait_until(settled)


async def test_every_turn_in_line_ends_as_its_session_has_nothing_left(
    conversation: Conversation,
) -> None:
    user, session_id = conversation.user, conversation.session_id
    await user.update(session_id, budget=Budget(tokens=100))
    line = [await user.begin(session_id, policy=BUSY_POLICY_ENQUEUE) for _ in range(3)]
    for turn in line:
        await conversation.deliver(turn.turn_id)
        outcome = (await user.ended(turn.turn_id)).outcome
        assert (outcome.state, outcome.reason) == (TURN_STATE_OVER_BUDGET, "SESSION_BUDGET_SPENT")
    assert not conversation.model.calls
    assert (await user.get(session_id)).spending == Spending()


async def test_a_code_turn_that_is_cancelled_keeps_what_is_finished_and_stops_its_call(
    conversation: Conversation, model: HeldModel
) -> None:
    model.going.clear()
    model.held_at = "b.py"
    turn_id = await conversation.code()
    await wait_until(lambda: model.held == 1)
    await conversation.user.cancel(turn_id)
    await wait_until(lambda: model.held == 0)
    outcome = (await conversation.user.ended(turn_id)).outcome
    assert (outcome.state, outcome.text) == (TURN_STATE_CANCELLED, "")
    assert [one.path for one in outcome.artifacts] == ["a.py"]


async def test_a_code_turn_whose_session_is_deleted_leaves_its_model_call(
    conversation: Conversation, model: HeldModel
) -> None:
    model.going.clear()
    turn_id = await conversation.code()
    await wait_until(lambda: model.held == 1)
    await conversation.user.delete(conversation.session_id)
    await wait_until(lambda: model.held == 0)
    assert turn_id not in conversation.stack.archive.finished
