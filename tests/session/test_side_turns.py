"""Turns beside the conversation: a Socratic turn's analysis, over gRPC on a real store."""

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.specification_pb2 import Conflict, Question, Specification
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ROLLBACK,
    TURN_KIND_ANALYSIS,
    TURN_KIND_NEXT_QUESTION,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    Findings,
    Turn,
    Usage,
)
from services.session.adapters import keys
from services.session.lanes import TimeBudgets
from tests.session.stack import SOON, Stack, User, session_stack
from tests.waiting import wait_until

ANALYSIS_QUEUE = "turns.analysis.v1"


def specified(value: str, key: str = "storage") -> Specification:
    return Specification(category="technology", key=key, value=value, confidence=0.9)


async def socratic(user: User) -> str:
    return (await user.create(mode=SESSION_MODE_SOCRATIC)).session_id


async def analysis_of(stack: Stack, turn: Turn) -> RunTurn:
    """Return the job of the analysis that was begun with a turn."""
    await wait_until(lambda: bool(_children(stack, turn)), SOON)
    return _children(stack, turn)[0]


def _children(stack: Stack, turn: Turn) -> list[RunTurn]:
    return [
        job
        for queue, job in stack.jobs.seen
        if queue == ANALYSIS_QUEUE and job.parent_turn_id == turn.turn_id
    ]


async def settled(stack: Stack, session_id: str) -> None:
    """Wait until all of the session is archived, so that it may leave the live store."""

    async def may_expire() -> bool:
        return int(await stack.redis.pttl(keys.record_key(session_id))) > 0

    await wait_until(may_expire, SOON)


async def test_what_is_said_in_socratic_mode_is_analysed_beside_the_turn(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = await socratic(user)
    turn = await user.begin(session_id, "It must run on SQLite.")
    analysis = await analysis_of(stack, turn)
    assert (analysis.kind, analysis.lane) == (TURN_KIND_ANALYSIS, "analysis")
    assert list(analysis.steps) == ["context", "conflict"]
    assert analysis.message.text == "It must run on SQLite."
    assert (await user.get(session_id)).active_turn_id == turn.turn_id
    await stack.answer(turn.turn_id, "Why SQLite?")
    await user.ended(turn.turn_id)
    # It still runs, and nothing waits for it.
    second = await user.begin(session_id, "Because it is small.")
    await stack.answer(second.turn_id, "How small?")
    await user.ended(second.turn_id)
    assert [m.text for m in await user.all_messages(session_id)] == [
        "It must run on SQLite.",
        "Why SQLite?",
        "Because it is small.",
        "How small?",
    ]
    assert (await user.turn(analysis.turn_id)).parent_turn_id == turn.turn_id


async def test_a_lane_gives_its_time_budget_unless_the_request_asks_for_another(
    store_url: str,
) -> None:
    budgets = TimeBudgets(interactive=60, analysis=30)
    async with session_stack(store_url, time_budget=budgets) as stack:
        user = stack.user()
        for asked, given in ((0, 60), (45, 45)):
            turn = await user.begin(await socratic(user), budget=asked)
            assert (await stack.jobs.next(turn.turn_id)).time_budget.ToSeconds() == given
            assert (await analysis_of(stack, turn)).time_budget.ToSeconds() == 30


async def test_the_agent_that_is_asked_for_takes_the_turn_and_no_part_in_its_analysis(
    stack: Stack,
) -> None:
    user = stack.user()
    turn = await user.begin(await socratic(user), agent="reviewer")
    assert (await stack.jobs.next(turn.turn_id)).agent == "reviewer"
    assert (await analysis_of(stack, turn)).agent == ""
    assert (await user.turn(turn.turn_id)).agent == "reviewer"
    await stack.answer(turn.turn_id, "So.")
    await stack.archived(turn.turn_id)
    assert (await user.turn(turn.turn_id)).agent == "reviewer"


async def test_a_direct_turn_has_no_analysis(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id)
    await stack.answer(turn.turn_id, "So.")
    await stack.archived(turn.turn_id)
    assert not [job for queue, job in stack.jobs.seen if queue == ANALYSIS_QUEUE]


async def test_a_finished_step_never_runs_again_and_the_next_attempt_sees_what_it_found(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = await socratic(user)
    turn = await user.begin(session_id, "It must run on SQLite.")
    job = await analysis_of(stack, turn)
    first = await stack.worker().claimed(job)
    assert not first.claim.finished_steps
    usage = [Usage(step="context", input_tokens=7)]
    found = Findings(specifications=[specified("SQLite")])
    done = await first.complete_step("context", found, usage)
    again = await first.complete_step("context", found, usage)
    assert done.status == again.status == work.WRITE_STATUS_APPLIED
    assert done.findings == again.findings
    (known,) = await user.specifications(session_id)
    assert (known.value, known.turn_id) == ("SQLite", turn.turn_id)
    assert known.message_id == f"{turn.turn_id}.u"
    await first.release()  # its worker goes away
    second = await stack.worker().claimed(job)
    assert list(second.claim.finished_steps) == ["context"]
    assert list(second.claim.findings.specifications) == [known]
    late = await first.complete_step("conflict", Findings())
    assert late.status == work.WRITE_STATUS_FENCED
    await second.complete_step("conflict", Findings(), [Usage(step="conflict", input_tokens=5)])
    await second.complete("")
    ended = await user.ended(job.turn_id)
    assert ended.outcome.state == TURN_STATE_COMPLETED
    assert [step.step for step in ended.outcome.usage] == ["context", "conflict"]
    assert list(ended.outcome.findings.specifications) == [known]


async def test_a_session_with_an_analysis_under_way_does_not_leave_the_store(stack: Stack) -> None:
    user = stack.user()
    session_id = await socratic(user)
    turn = await user.begin(session_id)
    job = await analysis_of(stack, turn)
    await stack.answer(turn.turn_id, "Why?")
    await stack.archived(turn.turn_id)
    assert await stack.redis.pttl(keys.record_key(session_id)) == -1
    held = await stack.worker().claimed(job)
    await held.complete("", findings=Findings(specifications=[specified("SQLite")]))
    await stack.archived(job.turn_id)
    await settled(stack, session_id)
    assert [one.value for one in await user.specifications(session_id)] == ["SQLite"]


async def test_the_analysis_of_a_cancelled_turn_is_cancelled_with_it(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    turn = await user.begin(await socratic(user))
    job = await analysis_of(stack, turn)
    held = await stack.worker().claimed(job)
    await user.cancel(turn.turn_id)
    assert (await user.ended(job.turn_id)).outcome.state == TURN_STATE_CANCELLED
    assert set((await held.record(["late"])).fenced_turn_ids) == {job.turn_id}


async def test_what_was_found_in_a_turn_that_is_rolled_back_is_forgotten(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = await socratic(user)
    turn = await user.begin(session_id, "Postgres, please.")
    held = await stack.worker().claimed(await analysis_of(stack, turn))
    await held.complete_step("context", Findings(specifications=[specified("Postgres")]))
    assert await user.specifications(session_id)
    instead = await user.begin(session_id, "SQLite, please.", policy=BUSY_POLICY_ROLLBACK)
    await user.ended(turn.turn_id)
    late = await held.complete_step("conflict", Findings())
    assert late.status == work.WRITE_STATUS_FENCED
    assert await user.specifications(session_id) == []
    assert (await analysis_of(stack, instead)).message.text == "SQLite, please."


async def test_an_analysis_that_the_store_lost_comes_back_and_stands_in_nobodys_way(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = await socratic(user)
    turn = await user.begin(session_id, "It must run on SQLite.")
    job = await analysis_of(stack, turn)
    await stack.answer(turn.turn_id, "Why?")
    await stack.archived(turn.turn_id)
    await stack.redis.flushdb()
    second = await user.begin(session_id, "Because.")  # restores the session
    assert (await user.turn(second.turn_id)).turn_id
    held = await stack.worker().claimed(job)
    await held.complete("", findings=Findings(specifications=[specified("SQLite")]))
    await stack.archived(job.turn_id)
    assert [one.value for one in await user.specifications(session_id)] == ["SQLite"]
    await stack.answer(second.turn_id, "So.")
    await stack.archived(second.turn_id)
    texts = [message.text for message in await user.all_messages(session_id)]
    assert texts == ["It must run on SQLite.", "Why?", "Because.", "So."]


async def test_a_deleted_sessions_analysis_is_gone(stack: Stack) -> None:
    user = stack.user()
    session_id = await socratic(user)
    job = await analysis_of(stack, await user.begin(session_id))
    held = await stack.worker().claimed(job)
    await user.delete(session_id)
    response = await held.complete_step("context", Findings())
    assert response.status == work.WRITE_STATUS_MISSING
    assert (await stack.worker().claim(job)).HasField("gone")


async def test_a_question_comes_without_anything_said_and_is_kept(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = await socratic(user)
    call = user.ask_for_question(session_id, "r")
    first = (await call.read()).frame
    turn = first.accepted.turn
    assert (turn.kind, turn.text) == (TURN_KIND_NEXT_QUESTION, "")
    held = await stack.claim(turn.turn_id)
    assert not held.claim.window
    asked = Findings(questions=[Question(text="What is it for?")])
    await held.say("What is it for?")
    await held.complete("What is it for?", findings=asked)
    await stack.archived(turn.turn_id)
    (message,) = await user.all_messages(session_id)
    (question,) = await user.questions(session_id)
    assert (question.text, question.message_id) == (message.text, message.message_id)
    again = user.ask_for_question(session_id, "r")
    assert (await again.read()).frame.turn_id == turn.turn_id
    # After it the user answers, and the conversation goes on.
    answer = await user.begin(session_id, "For letters.")
    await stack.answer(answer.turn_id, "What letters?")
    await user.ended(answer.turn_id)
    positions = [message.position for message in await user.all_messages(session_id)]
    assert positions == [1, 2, 3]


async def test_a_question_that_was_lost_comes_back_without_a_message_of_the_user(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = await socratic(user)
    call = user.ask_for_question(session_id)
    turn_id = (await call.read()).frame.turn_id
    held = await stack.claim(turn_id)
    await wait_until(lambda: turn_id in stack.archive.accepted, SOON)
    await stack.redis.flushdb()
    again = await stack.worker().claimed(stack.jobs.of(turn_id)[0], held.claim_id)
    await again.complete("What is it for?")
    await stack.archived(turn_id)
    assert [m.text for m in await user.all_messages(session_id)] == ["What is it for?"]


async def test_conflicts_are_found_between_what_holds_and_once(stack: Stack) -> None:
    user = stack.user()
    session_id = await socratic(user)
    held = await stack.worker().claimed(await analysis_of(stack, await user.begin(session_id)))
    both = Findings(specifications=[specified("SQLite"), specified("Postgres")])
    kept = (await held.complete_step("context", both)).findings.specifications
    first, second = kept
    seen = Conflict(first=first, second=second, explanation="One database is enough.")
    back = Conflict(first=second, second=first, explanation="The same the other way round.")
    alone = Conflict(first=first, second=Specification(specification_id="unknown"))
    await held.complete_step("conflict", Findings(conflicts=[seen, back, alone]))
    (conflict,) = await user.conflicts(session_id)
    assert conflict.explanation == "One database is enough."
    assert {conflict.first.value, conflict.second.value} == {"SQLite", "Postgres"}
    await held.complete("")
    outcome = (await user.ended(held.turn_id)).outcome
    assert list(outcome.findings.conflicts) == [conflict], "nothing else is told"
