"""Turns that look how documents support an answer, over gRPC on a real store."""

from typing import Any
from uuid import uuid4

import grpc
import pytest

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.message_pb2 import Citation
from maieutic.v1.support_pb2 import VERDICT_SUPPORTED, Claim, SupportReport
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_SUPPORT,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    AnalyzeRequest,
    Findings,
    Turn,
    Usage,
)
from services.session.accepting import MOST_ASIDE
from services.session.adapters import keys
from services.session.analyses import MOST_CHARACTERS
from tests.session.stack import Held, Stack, User, bad_field, failure, reason

ANSWER = "The battery lasts 12 hours."
LISTED = Findings(
    support=SupportReport(collection="brand-x", claims=[Claim(text=ANSWER, quote=ANSWER)])
)
JUDGED = Findings()
JUDGED.CopyFrom(LISTED)
JUDGED.support.claims[0].verdict = VERDICT_SUPPORTED
JUDGED.support.claims[0].supporting.append(Citation(number=1, quote="lasts 12 hours"))


def analysis(user: User, session_id: str, request_id: str = "", **fields: Any) -> Any:
    """Begin one; nothing is read of its stream yet."""
    request = AnalyzeRequest(session_id=session_id, request_id=request_id or uuid4().hex, **fields)
    with user.acting() as replica:
        return replica.turns.Analyze(request)


async def begun(user: User, session_id: str, request_id: str = "", **fields: Any) -> Turn:
    call = analysis(user, session_id, request_id, **{"collection": "brand-x", **fields})
    turn: Turn = (await call.read()).frame.accepted.turn
    call.cancel()
    return turn


async def answered(stack: Stack, user: User, session_id: str, text: str = ANSWER) -> Turn:
    turn = await user.begin(session_id)
    await stack.answer(turn.turn_id, text)
    return await user.ended(turn.turn_id)


async def claimed(stack: Stack, turn: Turn) -> Held:
    return await stack.claim(turn.turn_id, queue="analysis")


async def test_a_turns_answer_is_analysed_beside_the_conversation(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    asked = await answered(stack, user, session_id)
    running = await user.begin(session_id, "And the strap?")
    turn = await begun(user, session_id, turn_id=asked.turn_id)
    assert (turn.kind, turn.text) == (TURN_KIND_SUPPORT, ANSWER)
    job = await stack.jobs.next(turn.turn_id, queue="analysis")
    assert list(job.steps) == ["citation_claims", "citation_verdicts"]
    assert (job.lane, job.collection, job.message.text) == ("analysis", "brand-x", ANSWER)
    assert (await user.get(session_id)).active_turn_id == running.turn_id
    held = await claimed(stack, turn)
    await held.complete_step("citation_claims", LISTED)
    await held.complete_step("citation_verdicts", JUDGED)
    await held.complete("")
    await stack.archived(turn.turn_id)
    await stack.answer(running.turn_id, "Leather.")
    texts = [message.text for message in await user.all_messages(session_id)]
    assert texts == ["Why?", ANSWER, "And the strap?", "Leather."]


async def test_the_next_step_sees_the_claims_and_the_session_never_does(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    turn = await begun(user, session_id, text=ANSWER)
    first = await claimed(stack, turn)
    usage = [Usage(step="citation_claims", input_tokens=7, usage_id="a")]
    done = await first.complete_step("citation_claims", LISTED, usage)
    assert done.findings.support == LISTED.support
    await first.release()  # its worker goes away
    second = await stack.worker().claimed(await stack.jobs.next(turn.turn_id))
    assert list(second.claim.finished_steps) == ["citation_claims"]
    assert second.claim.findings.support == LISTED.support
    assert (await first.complete_step("citation_verdicts", LISTED)).status == (
        work.WRITE_STATUS_FENCED
    )
    await second.complete_step(
        "citation_verdicts", JUDGED, [Usage(step="citation_verdicts", usage_id="b")]
    )
    await second.complete("")
    ended = await user.ended(turn.turn_id)
    assert ended.outcome.state == TURN_STATE_COMPLETED
    assert ended.outcome.findings == JUDGED  # of the two reports the last, once
    assert [one.step for one in ended.outcome.usage] == ["citation_claims", "citation_verdicts"]
    await stack.archived(turn.turn_id)
    assert (await user.turn(turn.turn_id)).outcome.findings == JUDGED
    assert not await stack.redis.exists(keys.annotations_key(session_id))
    # Neither does another turn of the session.
    other = await begun(user, session_id, text=ANSWER)
    assert not (await claimed(stack, other)).claim.findings.HasField("support")


async def test_the_same_request_finds_the_same_turn_until_its_end_and_after(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    asked = await answered(stack, user, session_id)
    turn = await begun(user, session_id, "r", turn_id=asked.turn_id)
    held = await claimed(stack, turn)
    await held.complete("", findings=JUDGED)
    await stack.archived(turn.turn_id)
    assert (await begun(user, session_id, "r", turn_id=asked.turn_id)).turn_id == turn.turn_id
    for other in ({"text": ANSWER}, {"turn_id": asked.turn_id, "collection": "brand-y"}):
        error = await failure(begun(user, session_id, "r", **other))
        assert reason(error) == "REQUEST_ID_TAKEN", other
    error = await failure(user.begin(session_id, ANSWER, request_id="r"))
    assert reason(error) == "REQUEST_ID_TAKEN"


async def test_an_analysis_that_the_store_lost_comes_back(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    turn = await begun(user, session_id, text=ANSWER)
    job = await stack.jobs.next(turn.turn_id)
    held = await claimed(stack, turn)
    await held.complete_step("citation_claims", LISTED)
    await stack.redis.flushdb()
    again = await stack.worker().claimed(job, held.claim_id)
    assert not again.claim.finished_steps
    await again.complete_step("citation_claims", LISTED)
    await again.complete_step("citation_verdicts", JUDGED)
    await again.complete("")
    await stack.archived(turn.turn_id)
    assert (await user.turn(turn.turn_id)).outcome.findings == JUDGED


async def test_an_analysis_is_cancelled_alone(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    asked = await answered(stack, user, session_id)
    turn = await begun(user, session_id, turn_id=asked.turn_id)
    held = await claimed(stack, turn)
    await held.complete_step("citation_claims", LISTED)
    await user.cancel(turn.turn_id)
    assert (await user.ended(turn.turn_id)).outcome.state == TURN_STATE_CANCELLED
    late = await held.complete_step("citation_verdicts", JUDGED)
    assert late.status == work.WRITE_STATUS_FENCED
    assert (await user.turn(asked.turn_id)).outcome.state == TURN_STATE_COMPLETED


async def test_what_cannot_be_analysed_is_refused_by_name(any_stack: Stack) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    asked = await answered(stack, user, session_id)
    elsewhere = (await user.create()).session_id
    stranger = stack.user()
    theirs = (await stranger.create()).session_id

    async def refused(who: User, session: str, **fields: Any) -> grpc.aio.AioRpcError:
        return await failure(begun(who, session, **fields))

    colleague = stack.user(tenant=user.tenant)
    for who, session in (
        (user, elsewhere),
        (colleague, session_id),
        (stranger, session_id),
        (stranger, theirs),
    ):
        error = await refused(who, session, turn_id=asked.turn_id)
        assert error.code() == grpc.StatusCode.NOT_FOUND
    for other in (colleague, stranger):
        error = await refused(other, session_id, text=ANSWER)
        assert error.code() == grpc.StatusCode.NOT_FOUND
    error = await refused(user, session_id, text=ANSWER, collection="")
    assert bad_field(error) == "collection"
    running = await user.begin(session_id)
    error = await refused(user, session_id, turn_id=running.turn_id)
    assert reason(error) == "TURN_NOT_ENDED"
    await stack.answer(running.turn_id, "long " * MOST_CHARACTERS)
    await user.ended(running.turn_id)
    error = await refused(user, session_id, turn_id=running.turn_id)
    assert bad_field(error) == "turn_id"
    await user.end(session_id)
    error = await refused(user, session_id, turn_id=asked.turn_id)
    assert reason(error) == "SESSION_ENDED"


async def test_the_sessions_own_documents_need_no_collection(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(document_ids=["d" * 20])).session_id
    turn = await begun(user, session_id, text=ANSWER, collection="")
    held = await claimed(stack, turn)
    assert list(held.claim.session.document_ids) == ["d" * 20]
    assert not stack.jobs.of(turn.turn_id)[0].collection


@pytest.mark.parametrize("text", ["", "Sorry."])
async def test_a_turn_that_said_little_or_nothing_may_be_analysed(stack: Stack, text: str) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    asked = await answered(stack, user, session_id, text)
    assert (await begun(user, session_id, turn_id=asked.turn_id)).text == text


async def test_only_so_many_run_beside_one_conversation(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    for number in range(MOST_ASIDE):
        await begun(user, session_id, str(number), text=ANSWER)
    error = await failure(begun(user, session_id, text=ANSWER))
    assert reason(error) == "LIMIT_REACHED"
    # What was begun is found all the same, and questions are still taken.
    assert (await begun(user, session_id, "0", text=ANSWER)).turn_id
    running = await user.begin(session_id)
    held = await claimed(stack, await begun(user, session_id, "0", text=ANSWER))
    await held.complete("", findings=JUDGED)
    await begun(user, session_id, text=ANSWER)
    assert (await user.get(session_id)).active_turn_id == running.turn_id
