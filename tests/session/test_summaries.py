"""Summaries of what agents no longer see word by word, over gRPC on a real store."""

from functools import partial

import pytest

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.session.v1.record_pb2 import TurnIntent, TurnRecord
from maieutic.v1.summary_pb2 import Summary
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_SUMMARY,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TURN_STATE_ROLLED_BACK,
    Findings,
    Turn,
)
from services.session.beginning import begin
from services.session.ending import finish_stop, stop
from services.session.findings import forget, keep, named
from services.session.summaries import (
    LEAST_CHARACTERS,
    LEAST_MESSAGES,
    MOST_CHARACTERS,
    NEWEST_CHARACTERS,
    NEWEST_MESSAGES,
    STEP,
)
from tests.session.drafts import T0, TIMING, Memory, job, turn_id
from tests.session.stack import SOON, Held, Stack, User
from tests.session.test_side_turns import settled
from tests.waiting import wait_until

TURNS = (NEWEST_MESSAGES + LEAST_MESSAGES) // 2
"""After so many a summary begins."""
FIRST = 2 * TURNS - NEWEST_MESSAGES
"""It covers so many messages."""


async def talk(stack: Stack, user: User, session_id: str, turns: int, first: int = 0) -> Turn:
    turn = Turn()
    for number in range(first, first + turns):
        turn = await user.begin(session_id, f"question {number}")
        await stack.answer(turn.turn_id, f"answer {number}")
        await stack.archived(turn.turn_id)
    return turn


def begun(stack: Stack) -> list[RunTurn]:
    """Return the summaries that were begun, each once, in their order."""
    jobs = {job.turn_id: job for _, job in stack.jobs.seen if job.kind == TURN_KIND_SUMMARY}
    return list(jobs.values())


async def nth(stack: Stack, number: int) -> RunTurn:
    await wait_until(lambda: len(begun(stack)) >= number, SOON)
    return begun(stack)[number - 1]


def written(text: str, through: int) -> Findings:
    return Findings(summary=Summary(text=text, through_position=through, message_count=through))


async def summed_up(stack: Stack, number: int, text: str) -> Held:
    """Be the worker of the nth summary."""
    job = await nth(stack, number)
    held = await stack.worker().claimed(job)
    done = await held.complete_step(STEP, written(text, job.summary_through_position))
    assert done.status == work.WRITE_STATUS_APPLIED
    await held.complete("")
    await stack.archived(job.turn_id)
    return held


async def test_a_summary_begins_before_anything_leaves_the_window_and_only_one_at_a_time(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS - 1)
    assert begun(stack) == []
    last = await talk(stack, user, session_id, 1, TURNS - 1)
    first = await nth(stack, 1)
    assert (first.summary_through_position, first.lane) == (FIRST, "analysis")
    await talk(stack, user, session_id, 4, TURNS)
    assert len(begun(stack)) == 1, "the first one is still under way"
    await summed_up(stack, 1, "They spoke of questions.")
    second = await nth(stack, 2)  # so much was said meanwhile
    assert second.summary_through_position == FIRST + 8
    turn = await user.begin(session_id, "And?")
    claim = (await stack.claim(turn.turn_id)).claim
    kept = claim.findings.summary
    assert (kept.text, kept.through_position) == ("They spoke of questions.", FIRST)
    assert kept.turn_id == first.turn_id != last.turn_id
    assert await user.summary(session_id) == kept
    # Nobody sees it in the conversation.
    assert {m.text.split()[0] for m in await user.all_messages(session_id)} == {
        "question",
        "answer",
        "And?",
    }


async def test_a_summary_that_fails_stands_in_nobodys_way_and_the_next_covers_it_all(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    held = await stack.worker().claimed(await nth(stack, 1))
    await held.fail(retryable=False)
    assert (await user.ended(held.turn_id)).outcome.state == TURN_STATE_FAILED
    assert await user.summary(session_id) is None
    await talk(stack, user, session_id, LEAST_MESSAGES // 2 - 1, TURNS)
    assert len(begun(stack)) == 1, "it is not tried again with each turn"
    await talk(stack, user, session_id, 1, TURNS + LEAST_MESSAGES // 2)
    second = await nth(stack, 2)
    assert second.summary_through_position == FIRST + LEAST_MESSAGES
    held = await stack.worker().claimed(second)
    everything = await held.messages(after_position=0, page_size=100)
    assert everything.oldest_first
    assert [m.position for m in everything.messages][:3] == [1, 2, 3]
    on = await held.messages(everything.next_page_token, 3, after_position=5)
    assert [m.position for m in on.messages] == [6, 7, 8]


async def test_a_worker_that_dies_in_a_summary_leaves_it_to_another_and_it_counts_once(
    short_leases: Stack,
) -> None:
    stack, user = short_leases, short_leases.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    first = await nth(stack, 1)
    dead = await stack.worker().claimed(first)
    held = await stack.claim(first.turn_id, queue="suspect")
    assert held.claim.window == dead.claim.window
    await held.complete_step(STEP, written("By the second.", FIRST))
    late = await dead.complete_step(STEP, written("By the first.", FIRST))
    assert late.status == work.WRITE_STATUS_FENCED
    await held.complete("")
    ended = await user.ended(first.turn_id)
    assert (ended.outcome.state, ended.attempt) == (TURN_STATE_COMPLETED, 2)
    summary = await user.summary(session_id)
    assert summary is not None
    assert summary.text == "By the second."
    assert len(begun(stack)) == 1


async def test_a_summary_outlives_the_live_store_and_goes_on_from_there(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    await summed_up(stack, 1, "First.")
    before = await user.summary(session_id)
    await settled(stack, session_id)
    await stack.forget(session_id)
    assert await user.summary(session_id) == before
    await talk(stack, user, session_id, LEAST_MESSAGES // 2 - 1, TURNS)
    assert len(begun(stack)) == 1
    await talk(stack, user, session_id, 1, 2 * TURNS)
    assert (await nth(stack, 2)).summary_through_position == FIRST + LEAST_MESSAGES


async def test_a_summary_that_was_lost_comes_back_and_no_other_is_begun_beside_it(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    first = await nth(stack, 1)
    await wait_until(lambda: first.turn_id in stack.archive.accepted, SOON)
    await stack.redis.flushdb()
    await talk(stack, user, session_id, 1, TURNS)
    assert len(begun(stack)) == 1
    await summed_up(stack, 1, "After all.")
    summary = await user.summary(session_id)
    assert summary is not None
    assert summary.text == "After all."


async def test_a_branch_takes_along_the_summary_of_what_it_has(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    messages = await user.all_messages(session_id)
    job = await nth(stack, 1)
    held = await stack.worker().claimed(job)
    found = written("Of the older part.", FIRST)
    found.summary.through_message_id = messages[FIRST - 1].message_id
    await held.complete_step(STEP, found)
    await held.complete("")
    await stack.archived(job.turn_id)
    after = await user.branch(session_id, messages[FIRST + 1].message_id)
    kept = await user.summary(after.session_id)
    assert kept is not None
    assert (kept.text, kept.through_position) == ("Of the older part.", FIRST)
    copies = await user.all_messages(after.session_id)
    assert kept.through_message_id == copies[FIRST - 1].message_id
    before = await user.branch(session_id, messages[FIRST - 2].message_id)
    assert await user.summary(before.session_id) is None


async def test_an_ended_session_is_not_summed_up(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS - 1)
    turn = await user.begin(session_id)
    await user.end(session_id)
    await stack.answer(turn.turn_id, "So.")
    await stack.archived(turn.turn_id)
    await settled(stack, session_id)
    assert begun(stack) == []


async def test_long_messages_are_summed_up_before_a_model_could_not_read_them_all(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    size = (NEWEST_CHARACTERS + LEAST_CHARACTERS) // 6 + 1
    for _ in range(2):
        turn = await user.begin(session_id, "q" * size)
        await stack.answer(turn.turn_id, "a" * size)
        await stack.archived(turn.turn_id)
    assert begun(stack) == []
    turn = await user.begin(session_id, "q" * size)
    await stack.answer(turn.turn_id, "a" * size)
    job = await nth(stack, 1)
    # What is left fits, and no exchange is torn apart.
    assert job.summary_through_position == 2
    held = await stack.worker().claimed(job)
    await held.fail(retryable=False)
    turn = await user.begin(session_id, "Short.")
    await stack.answer(turn.turn_id, "So.")
    await stack.archived(turn.turn_id)
    assert len(begun(stack)) == 1


# --- the rules, without a store -------------------------------------------------------------------


def expecting(name: str, through: int) -> Memory:
    """Return a session in which this summary was begun."""
    memory = Memory.with_session()
    assert memory.session is not None
    memory.session.summary_turn_id, memory.session.summary_position = turn_id(name), through
    return memory


def summary_of(name: str, text: str, through: int) -> Findings:
    return named(written(text, through), TurnRecord(job=job(name)), T0)


def kept_text(memory: Memory) -> str:
    return memory.annotations.findings.summary.text


def test_a_summary_takes_the_place_of_an_older_one_only() -> None:
    memory = expecting("a", 8)
    memory.apply(partial(keep, found=summary_of("a", "To eight.", 8)))
    memory.apply(partial(keep, found=summary_of("a", "To six.", 6)))
    memory.apply(partial(keep, found=summary_of("a", "To eight again.", 8)))
    memory.apply(partial(keep, found=summary_of("a", "Beyond what it was begun for.", 9)))
    assert kept_text(memory) == "To eight."


def test_a_summary_that_another_one_has_replaced_comes_too_late() -> None:
    memory = expecting("b", 16)
    memory.apply(partial(keep, found=summary_of("a", "Late.", 8)))
    assert kept_text(memory) == ""
    memory.apply(partial(keep, found=summary_of("b", "In time.", 16)))
    assert kept_text(memory) == "In time."


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_summary_that_says_nothing_is_not_kept(text: str) -> None:
    memory = expecting("a", 8)
    memory.apply(partial(keep, found=summary_of("a", text, 8)))
    assert not memory.annotations.findings.HasField("summary")


def test_a_summary_is_kept_in_bounded_length() -> None:
    found = summary_of("a", "x" * (MOST_CHARACTERS + 1), 8)
    assert len(found.summary.text) == MOST_CHARACTERS


@pytest.mark.parametrize(("position", "left"), [(0, "Kept."), (9, "Kept."), (8, ""), (1, "")])
def test_what_is_undone_takes_along_the_summary_that_covers_it(position: int, left: str) -> None:
    memory = expecting("a", 8)
    memory.apply(partial(keep, found=summary_of("a", "Kept.", 8)))
    undone = job("c")
    undone.message.position = position
    memory.apply(partial(forget, job=undone))
    assert kept_text(memory) == left
    # What is on its way covers it, too, and comes to nothing.
    memory.apply(partial(keep, found=summary_of("a", "On its way.", 8)))
    assert kept_text(memory) == left


def test_the_end_of_a_turn_that_is_undone_begins_the_summary_anew() -> None:
    memory = expecting("a", 30)
    assert memory.session is not None
    memory.session.next_position = 30
    turn = memory.apply(partial(begin, job=job("c"), timing=TIMING))
    memory.apply(partial(keep, found=summary_of("a", "Covers it.", turn.job.message.position)))
    intent = TurnIntent(state=TURN_STATE_ROLLED_BACK)
    memory.apply(lambda d: stop(d, d.turns[turn_id("c")], intent, TIMING))
    memory.apply(lambda d: finish_stop(d, turn_id("c"), "", TIMING))
    assert not memory.annotations.findings.HasField("summary")
    (again,) = (t.job for t in memory.turns.values() if t.job.kind == TURN_KIND_SUMMARY)
    assert again.summary_through_position == 29 - NEWEST_MESSAGES
    assert memory.session is not None
    assert list(memory.session.side_turn_ids) == [again.turn_id]
