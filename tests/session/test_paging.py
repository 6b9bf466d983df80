"""Pages of messages and of sessions: no gap, no double, and no more than a caller can take."""

from collections.abc import Sequence

import pytest

from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import Session
from services.session.errors import BadPageToken
from services.session.model import timestamp
from services.session.paging import (
    BACK,
    FORTH,
    LAST_USED_FIRST,
    NEWEST_FIRST,
    OLDEST_FIRST,
    PAGE_BYTES,
    Direction,
    Order,
    Place,
    page_of_messages,
    page_of_sessions,
)


def message(position: int, name: str = "", size: int = 10) -> Message:
    return Message(message_id=f"{position}{name}", position=position, text="x" * size)


def paged(messages: Sequence[Message], limit: int, direction: Direction = BACK) -> list[list[str]]:
    """Return the ids of all pages."""
    pages: list[list[str]] = []
    token = ""
    while token or not pages:
        beyond = direction.parse(token)
        left = [m for m in messages if direction.follows(m, beyond)]
        page, token = page_of_messages(left, None, limit, direction)
        pages.append([m.message_id for m in page])
    return pages


def test_a_page_has_no_more_messages_than_asked_for() -> None:
    messages = [message(n) for n in range(1, 6)]
    assert paged(messages, 2) == [["5", "4"], ["3", "2"], ["1"]]
    assert paged(messages, 2, FORTH) == [["1", "2"], ["3", "4"], ["5"]]


def test_messages_of_one_position_are_on_one_page() -> None:
    twins = [message(2, "a"), message(2, "b")]
    messages = [message(1), *twins, message(3), message(4)]
    assert paged(messages, 3) == [["4", "3"], ["2a", "2b", "1"]]
    assert paged(messages, 1) == [["4"], ["3"], ["2a", "2b"], ["1"]]
    assert paged(messages, 2, FORTH) == [["1"], ["2a", "2b"], ["3", "4"]]


def test_a_page_ends_before_it_is_too_large_and_has_at_least_one_message() -> None:
    half, whole = PAGE_BYTES // 2 - 100, PAGE_BYTES + 1
    messages = [
        message(4, size=half),
        message(3, size=half),
        message(2, size=half),
        message(1, size=whole),
    ]
    assert paged(messages, 50) == [["4", "3"], ["2"], ["1"]]


def test_what_lies_beyond_the_end_of_what_is_known_waits_for_the_next_page() -> None:
    known = [message(n) for n in (9, 8, 7)]
    older_but_live = message(3)
    page, token = page_of_messages([*known, older_but_live], 7, 50)
    assert ([m.message_id for m in page], token) == (["9", "8", "7"], "7")
    page, token = page_of_messages([message(1), message(2), message(9)], 2, 50, FORTH)
    assert ([m.message_id for m in page], token) == (["1", "2"], "2o")


def test_a_page_of_which_nothing_is_left_leads_on() -> None:
    assert page_of_messages([], 7, 50) == ([], "7")
    assert page_of_messages([message(9)], 7, 50, FORTH) == ([], "7o")


@pytest.mark.parametrize("direction", [BACK, FORTH])
def test_a_direction_takes_its_own_tokens_alone(direction: Direction) -> None:
    assert direction.parse("") == 0
    assert direction.parse(f"7{direction.mark}") == 7
    other = FORTH if direction is BACK else BACK
    for token in ("x", "0", "-3", "7oo", "o", "٣", f"7{other.mark}", "0o", "9" * 16):
        with pytest.raises(BadPageToken):
            direction.parse(token)


@pytest.mark.parametrize("order", [NEWEST_FIRST, OLDEST_FIRST, LAST_USED_FIRST])
@pytest.mark.parametrize("name", ["s" * 48, "-_" * 24, "t" * 48 + ".007", "c" * 48 + ".r"])
def test_an_order_leads_on_after_whatever_has_an_id(order: Order, name: str) -> None:
    place = Place(1_790_000_000_000, name)
    assert order.parse(order.token(place)) == place


@pytest.mark.parametrize("order", [NEWEST_FIRST, OLDEST_FIRST, LAST_USED_FIRST])
def test_an_order_takes_its_own_tokens_alone(order: Order) -> None:
    assert order.parse("") is None
    marks = {each.mark for each in (NEWEST_FIRST, OLDEST_FIRST, LAST_USED_FIRST)}
    others = [f"7.s.{mark}".rstrip(".") for mark in marks - {order.mark}]
    hostile = ["x", "7", "7.", ".s", "7.s\0", "7.s s", "-7.s", "٣.s", f"{'9' * 15}.s", "7.s.1.2"]
    for token in (*others, *(f"{each}.{order.mark}".rstrip(".") for each in hostile), "7.s\n"):
        with pytest.raises(BadPageToken):
            order.parse(token)


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2]), (50, [3, 1])])
def test_a_page_of_sessions_is_bounded_in_number_and_in_bytes(limit: int, sizes: list[int]) -> None:
    sessions = [
        Session(session_id=f"s{n}", create_time=timestamp(n), title="x" * (PAGE_BYTES // 3 - 100))
        for n in (4, 3, 2, 1)
    ]
    first, after = page_of_sessions(sessions, None, limit)
    left = [s for s in sessions if NEWEST_FIRST.follows(NEWEST_FIRST.place(s), after)]
    rest, last = page_of_sessions(left, None, limit)
    assert [*first, *rest] == sessions
    assert ([len(first), len(rest)], last) == (sizes, None)
