"""What was said in a session, page by page: the window and the archive as one list."""

import logging
from collections.abc import Sequence

import grpc
import pytest
from opentelemetry.trace import SpanKind

from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import MessageOrder
from services.runtime import names
from services.session.model import WINDOW_MESSAGES
from tests.recorded import recording
from tests.session.stack import (
    NEWEST,
    OLDEST,
    SOON,
    Stack,
    User,
    bad_field,
    failure,
    retry_after,
    session_stack,
)
from tests.waiting import wait_until

LIST_MESSAGES = "maieutic.v1.SessionService/ListMessages"
CLAIM_TURN = "maieutic.session.v1.TurnWorkService/ClaimTurn"
TURNS = 12
"""More than a window holds."""


async def talk(stack: Stack, user: User, session_id: str, turns: int, start: int = 0) -> None:
    """Ask and answer, and wait until all of it is archived."""
    for number in range(start, start + turns):
        turn = await user.begin(session_id, f"q{number}")
        await stack.answer(turn.turn_id, f"a{number}")
        await stack.archived(turn.turn_id)


def texts(messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages]


def said(turns: int) -> list[str]:
    return [f"{kind}{number}" for number in range(turns) for kind in "qa"]


async def test_both_directions_give_all_messages_once(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    assert await user.all_messages(session_id) == []
    await talk(stack, user, session_id, TURNS)
    for size in (1, 3, 10, 200):
        assert texts(await user.all_messages(session_id, size)) == said(TURNS)
    await stack.forget(session_id)
    for size in (1, 3, 10, 200):
        assert texts(await user.all_messages(session_id, size)) == said(TURNS)


async def test_what_the_archive_has_not_received_yet_comes_from_the_window(stack: Stack) -> None:
    """Nothing is trimmed that is not archived: the window grows as long as the archive lags."""
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    with stack.archiver.paused():
        for number in range(TURNS, 2 * TURNS):
            turn = await user.begin(session_id, f"q{number}")
            await stack.answer(turn.turn_id, f"a{number}")
        for size in (1, 7, 200):
            assert texts(await user.all_messages(session_id, size)) == said(2 * TURNS)
    await wait_until(lambda: turn.turn_id in stack.archive.finished, SOON)
    assert texts(await user.all_messages(session_id, 7)) == said(2 * TURNS)


async def test_pages_that_are_read_while_the_window_is_trimmed_have_no_gap(stack: Stack) -> None:
    """After each page another turn ends, is archived, and pushes two messages out of the window."""
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    for order in (NEWEST, OLDEST):
        before = texts(await user.all_messages(session_id))
        found: list[Message] = []
        token = "first"
        while token:
            token = "" if token == "first" else token
            page, token = await user.messages(session_id, 5, token, order=order)
            found += page
            if len(found) < len(before):
                await talk(stack, user, session_id, 1, start=len(before) // 2 + len(found))
        positions = [message.position for message in found]
        newest_first = sorted(positions, reverse=order == NEWEST)
        assert positions == newest_first
        assert len(set(positions)) == len(positions)
        assert set(before) <= set(texts(found))
        # What was said since the first page is behind whoever reads back, ahead of who reads on.
        assert len(found) == len(before) if order == NEWEST else len(found) > len(before)


async def test_while_the_archive_is_away_the_window_is_listed(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    stack.archive.away = True
    page, token = await user.messages(session_id, 200)
    assert texts(page) == said(TURNS)[: -WINDOW_MESSAGES - 1 : -1]
    for call in (
        user.messages(session_id, 200, token),
        user.messages(session_id, 200, order=OLDEST),
    ):
        error = await failure(call)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert retry_after(error) > 0
    stack.archive.away = False
    rest, end = await user.messages(session_id, 200, token)
    assert (texts([*page, *rest])[::-1], end) == (said(TURNS), "")


async def test_that_nothing_was_said_is_known_without_the_archive(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    stack.archive.away = True
    for order in (NEWEST, OLDEST):
        assert await user.messages(session_id, order=order) == ([], "")
    turn = await user.begin(session_id, "q0")
    assert [m.text for m in await user.all_messages(session_id)] == ["q0"]
    await user.cancel(turn.turn_id)


async def test_an_archive_that_knows_one_direction_only_is_not_misread(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)
    stack.archive.old = True
    page, _ = await user.messages(session_id, 200)
    assert texts(page)[::-1] == said(TURNS)
    error = await failure(user.messages(session_id, 200, order=OLDEST))
    assert error.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_token_of_the_other_direction_is_refused(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, 3)
    _, back = await user.messages(session_id, 1, order=NEWEST)
    _, forth = await user.messages(session_id, 1, order=OLDEST)
    for token, order in ((back, OLDEST), (forth, NEWEST)):
        error = await failure(user.messages(session_id, 1, token, order=order))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field(error) == "page_token"


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
async def test_what_is_said_while_a_page_is_read_leaves_no_hole_in_it(
    stack: Stack, order: MessageOrder.ValueType
) -> None:
    """The archive hears of a question before it hears of the turn before."""
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)

    async def meanwhile() -> None:
        stack.archive.before_messages = None
        with stack.archiver.paused():
            turn = await user.begin(session_id, f"q{TURNS}")
            await stack.answer(turn.turn_id, f"a{TURNS}")
            after = await user.begin(session_id, "last")
            stack.archive.accepted[after.turn_id] = await stack.jobs.next(after.turn_id)

    stack.archive.before_messages = meanwhile
    page, _ = await user.messages(session_id, 200, order=order)
    assert texts(page) == [*said(TURNS + 1), "last"][:: 1 if order == OLDEST else -1]


async def test_log_and_spans_say_how_many_messages_a_call_loaded_and_from_where(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "services.session.observing")
    async with recording() as recorded, session_stack(store_url) as stack:
        await loads_are_told(stack, caplog)
    loads = {
        name: [
            span.attributes or {} for span in recorded.named(name) if span.kind is SpanKind.SERVER
        ]
        for name in (LIST_MESSAGES, CLAIM_TURN)
    }
    for name, last in ((LIST_MESSAGES, (20, 0)), (CLAIM_TURN, (21, 0))):
        found = loads[name][-1]
        assert (found[names.FROM_WINDOW], found[names.FROM_ARCHIVE]) == last


async def loads_are_told(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, TURNS)

    def last() -> tuple[str, str, int, int]:
        record = caplog.records[-1].__dict__
        return (
            caplog.records[-1].getMessage(),
            record["session"],
            record["from_window"],
            record["from_archive"],
        )

    await user.messages(session_id, 200)
    assert last() == (f"{2 * TURNS + 20} messages loaded", session_id, 20, 2 * TURNS)
    await user.messages(session_id, 4)
    assert last() == ("20 messages loaded", session_id, 20, 0)
    turn = await user.begin(session_id)
    await stack.claim(turn.turn_id)
    assert last() == ("21 messages loaded", session_id, 21, 0)


async def test_a_turn_in_a_session_that_left_is_told_what_the_archive_gave_back(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await talk(stack, user, session_id, 3)
    with stack.archiver.paused():  # its question is not among what comes back
        turn = await user.begin(session_id)
        job = await stack.jobs.next(turn.turn_id)
        await stack.forget(session_id)
        caplog.set_level(logging.INFO, "services.session.observing")
        held = await stack.worker().claimed(job)
    assert len(held.claim.window) == 7
    record = caplog.records[-1].__dict__
    assert (record["from_window"], record["from_archive"]) == (1, 6)
