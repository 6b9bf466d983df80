"""What a turn begins beside the conversation together with its outcome: once, or not at all."""

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.session.v1.turn_work_service_pb2 import HandOn
from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_ANALYSIS,
    TURN_KIND_ASK,
    TURN_KIND_CODE,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    HandedOn,
    TurnState,
)
from services.session.accepting import MOST_ASIDE
from services.session.beginning import begin
from services.session.ending import Ending
from services.session.jobs import Jobs, Limits
from services.session.model import Draft, timestamp
from services.session.transitions import Claimant, Hold, claim, complete
from tests.session.drafts import IDS, TIMING, Memory, job, turn_id
from tests.session.stack import Stack, bad_field, failure, kinds
from tests.waiting import wait_until

CODE = HandOn(kind=TURN_KIND_CODE, instructions="A library in Python.")
ANALYSIS = HandOn(kind=TURN_KIND_ANALYSIS)
A = turn_id("a")
JOBS = Jobs(IDS, Limits())


def children(stack: Stack, parent: str) -> list[RunTurn]:
    """Return each once: what is not claimed soon is published again."""
    jobs = {job.turn_id: job for _, job in stack.jobs.seen if job.parent_turn_id == parent}
    return list(jobs.values())


async def test_what_is_handed_on_begins_with_the_outcome_that_names_it(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, "It must run on SQLite. Write it.", most=Budget(tokens=9))
    held = await stack.claim(turn.turn_id)
    assert children(stack, turn.turn_id) == []
    await held.complete("I hand it on.", hand_on=[CODE, ANALYSIS])
    outcome = (await user.ended(turn.turn_id)).outcome
    code, analysis = outcome.handed_on
    assert (code.kind, analysis.kind) == (TURN_KIND_CODE, TURN_KIND_ANALYSIS)
    assert kinds(await user.frames(turn.turn_id))[-1] == "outcome"
    files = await stack.jobs.next(code.turn_id, queue="long")
    found = await stack.jobs.next(analysis.turn_id, queue="analysis")
    assert (files.message.text, list(files.steps)) == ("A library in Python.", ["code_plan"])
    assert files.budget.tokens == 9, "what bounds the question bounds each answer to it"
    assert found.message.text == "It must run on SQLite. Write it."
    assert {files.parent_turn_id, found.parent_turn_id} == {turn.turn_id}
    assert (await user.get(session_id)).active_turn_id == ""
    await (await stack.worker().claimed(files)).complete("1 file")
    assert (await user.ended(code.turn_id)).outcome.text == "1 file"
    assert [message.text for message in await user.all_messages(session_id)] == [
        "It must run on SQLite. Write it.",
        "I hand it on.",
    ]
    await stack.archived(turn.turn_id)
    assert list((await user.turn(turn.turn_id)).outcome.handed_on) == [code, analysis]


async def test_a_completion_that_comes_again_begins_nothing_again(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, request_id="once")
    held = await stack.claim(turn.turn_id)
    first = await held.complete("So.", hand_on=[CODE, CODE], publish=False)
    again = await held.complete("So.", hand_on=[CODE, CODE])
    assert first == again
    (code,) = first.finished.outcome.handed_on
    await stack.jobs.next(code.turn_id)
    await stack.archived(turn.turn_id)
    late = await held.complete("So.", hand_on=[CODE])
    assert late.status == work.WRITE_STATUS_FENCED
    same = await user.begin(session_id, request_id="once")
    assert list(same.outcome.handed_on) == [code]
    assert len(children(stack, turn.turn_id)) == 1


async def test_of_two_attempts_the_one_that_ends_the_turn_hands_on(stack: Stack) -> None:
    user = stack.user()
    turn = await user.begin((await user.create()).session_id)
    first = await stack.claim(turn.turn_id)
    await first.fail(retryable=True)
    second = await stack.claim(turn.turn_id, nth=2)
    assert (await first.complete("So.", hand_on=[CODE])).status == work.WRITE_STATUS_FENCED
    ended = await second.complete("So.", hand_on=[CODE])
    await stack.jobs.next(ended.finished.outcome.handed_on[0].turn_id)
    assert len(children(stack, turn.turn_id)) == 1


async def test_a_turn_that_is_cancelled_before_its_outcome_hands_nothing_on(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    turn = await user.begin((await user.create()).session_id)
    held = await stack.claim(turn.turn_id)
    await user.cancel(turn.turn_id)
    assert (await held.complete("So.", hand_on=[CODE])).status == work.WRITE_STATUS_FENCED
    outcome = (await user.ended(turn.turn_id)).outcome
    assert (outcome.state, list(outcome.handed_on)) == (TURN_STATE_CANCELLED, [])
    await stack.archived(turn.turn_id)
    assert children(stack, turn.turn_id) == []


async def test_what_was_handed_on_is_cancelled_by_itself(stack: Stack) -> None:
    user = stack.user()
    turn = await user.begin((await user.create()).session_id)
    held = await stack.claim(turn.turn_id)
    await held.complete("So.", hand_on=[CODE])
    await user.cancel(turn.turn_id)
    (code,) = (await user.ended(turn.turn_id)).outcome.handed_on
    assert not (await user.turn(code.turn_id)).HasField("outcome")
    await user.cancel(code.turn_id)
    assert (await user.ended(code.turn_id)).outcome.state == TURN_STATE_CANCELLED


async def test_an_outcome_that_the_store_lost_is_made_again_with_the_same_turn_beside_it(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    turn = await user.begin((await user.create()).session_id)
    parent = await stack.jobs.next(turn.turn_id)
    held = await stack.worker().claimed(parent)
    lost = await held.complete("So.", hand_on=[CODE], publish=False)
    (code,) = lost.finished.outcome.handed_on
    job = await stack.jobs.next(code.turn_id)
    await wait_until(lambda: code.turn_id in stack.archive.accepted)
    await stack.redis.flushdb()
    again = await stack.worker().claimed(parent)
    await (await stack.worker().claimed(job)).complete("1 file")
    made = await again.complete("So.", hand_on=[CODE])
    assert list(made.finished.outcome.handed_on) == [code]
    assert (await user.ended(code.turn_id)).outcome.text == "1 file"
    assert list((await user.ended(turn.turn_id)).outcome.handed_on) == [code]


async def test_a_kind_that_cannot_be_handed_on_is_refused_by_name(stack: Stack) -> None:
    user = stack.user()
    turn = await user.begin((await user.create()).session_id)
    held = await stack.claim(turn.turn_id)
    refused = await failure(held.complete("So.", hand_on=[HandOn(kind=TURN_KIND_ASK)]))
    assert bad_field(refused) == "hand_on.kind"
    assert (await held.complete("So.")).status == work.WRITE_STATUS_APPLIED


async def test_in_socratic_mode_what_is_said_is_analysed_once(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(mode=SESSION_MODE_SOCRATIC)).session_id
    turn = await user.begin(session_id, "It must run on SQLite.", agent="direct")
    ended = await (await stack.claim(turn.turn_id)).complete("So.", hand_on=[ANALYSIS])
    (analysis,) = ended.finished.outcome.handed_on
    await stack.archived(turn.turn_id)
    assert [job.turn_id for job in children(stack, turn.turn_id)] == [analysis.turn_id]


def test_instructions_are_no_longer_than_those_of_a_request() -> None:
    long = HandOn(kind=TURN_KIND_CODE, instructions="ä" * 40_000)
    assert JOBS.handed_on(job("a"), long).message.text == "ä" * 32_768


def leased() -> tuple[Memory, Hold]:
    memory = Memory.with_session()
    memory.apply(lambda draft: begin(draft, job("a"), TIMING))
    claimant = Claimant(worker_id="w", claim_id="c")
    granted = memory.apply(lambda draft: claim(draft, A, claimant, TIMING)).claim
    return memory, Hold(turn_id=A, fence=granted.fence, claim_id="c")


def handed_on(
    memory: Memory, hold: Hold, state: TurnState.ValueType = TURN_STATE_COMPLETED
) -> list[HandedOn]:
    ending = Ending(state=state, text="So.")

    def decide(draft: Draft) -> work.CompleteTurnResponse:
        beside = [JOBS.handed_on(draft.turns[A].job, CODE)]
        return complete(draft, hold, ending, 0, TIMING, beside=beside)

    outcome = memory.apply(decide).finished.outcome
    assert outcome.state == state
    return list(outcome.handed_on)


def test_where_nothing_more_may_run_beside_it_the_outcome_says_so_and_stands() -> None:
    memory, hold = leased()
    assert memory.session is not None
    memory.session.side_turn_ids.extend(str(number) for number in range(MOST_ASIDE))
    (full,) = handed_on(memory, hold)
    assert (full.kind, full.turn_id) == (TURN_KIND_CODE, "")
    assert str(MOST_ASIDE) in full.problem
    assert set(memory.turns) == {A}


def test_in_a_session_that_was_ended_meanwhile_nothing_begins() -> None:
    memory, hold = leased()
    assert memory.session is not None
    memory.session.session.end_time.CopyFrom(timestamp(memory.now))
    (ended,) = handed_on(memory, hold)
    assert "was ended" in ended.problem
    assert set(memory.turns) == {A}


def test_in_a_session_whose_budget_is_spent_nothing_begins() -> None:
    memory, hold = leased()
    assert memory.session is not None
    memory.session.session.budget.tokens = memory.session.session.spending.tokens = 9
    (spent,) = handed_on(memory, hold)
    assert (spent.turn_id, "9 of 9 tokens" in spent.problem) == ("", True)
    assert set(memory.turns) == {A}


def test_an_answer_that_is_no_answer_hands_nothing_on() -> None:
    memory, hold = leased()
    assert handed_on(memory, hold, TURN_STATE_FAILED) == []
    assert set(memory.turns) == {A}
