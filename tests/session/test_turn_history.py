"""What was said in a session, for the worker that has a turn of it in its hands."""

from typing import Any

import grpc
import pytest

from maieutic.session.v1.turn_work_service_pb2 import (
    WRITE_STATUS_APPLIED,
    WRITE_STATUS_FENCED,
    WRITE_STATUS_MISSING,
)
from maieutic.v1.message_pb2 import Message
from tests.session.stack import Held, Stack, User, bad_field, failure

TURNS = 12
"""More than a window holds."""


async def talk(stack: Stack, user: User, session_id: str, turns: int = TURNS) -> None:
    for number in range(turns):
        turn = await user.begin(session_id, f"q{number}")
        await stack.answer(turn.turn_id, f"a{number}")
        await stack.archived(turn.turn_id)


async def held(stack: Stack, user: User, session_id: str, text: str = "last") -> Held:
    """Begin a turn and claim it."""
    turn = await user.begin(session_id, text)
    return await stack.claim(turn.turn_id)


async def everything(turn: Held, page_size: int) -> list[str]:
    found: list[Message] = []
    token = "first"
    while token:
        page = await turn.messages("" if token == "first" else token, page_size)
        assert page.status == WRITE_STATUS_APPLIED
        found, token = [*found, *page.messages], page.next_page_token
    return [message.text for message in found]


async def test_a_worker_reads_all_of_its_turns_session_through_window_and_archive(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id)
    turn = await held(stack, user, session_id)
    said = ["last", *(f"{kind}{n}" for n in reversed(range(TURNS)) for kind in "aq")]
    for size in (1, 7, 0):
        assert await everything(turn, size) == said


async def test_a_claim_reads_the_session_of_its_own_turn_and_no_other(stack: Stack) -> None:
    for text in ("Ada's", "Bob's"):
        user = stack.user()
        turn = await held(stack, user, (await user.create()).session_id, text)
        assert await everything(turn, 0) == [text]


async def test_without_the_claim_that_stands_nothing_is_read(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await held(stack, user, session_id)
    fence = turn.claim.fence
    holds: list[dict[str, Any]] = [
        {"fence": fence - 1},
        {"fence": fence + 1},
        {"claim_id": "c" * 32},
    ]
    for hold in holds:
        refused = await turn.messages(**hold)
        assert (refused.status, list(refused.messages)) == (WRITE_STATUS_FENCED, [])
    missing = await turn.messages(turn_id="t" * 43)
    assert (missing.status, list(missing.messages)) == (WRITE_STATUS_MISSING, [])
    await turn.complete("done")
    assert (await turn.messages()).status == WRITE_STATUS_FENCED


@pytest.mark.parametrize(
    ("field", "wrong"), [("turn_id", "no id"), ("page_token", "o"), ("page_token", "7o")]
)
async def test_what_is_no_id_or_no_token_is_refused(stack: Stack, field: str, wrong: str) -> None:
    user = stack.user()
    turn = await held(stack, user, (await user.create()).session_id)
    given: dict[str, Any] = {field: wrong}
    error = await failure(turn.messages(**given))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_field(error) == field
