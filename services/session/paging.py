"""Pages of sessions and of messages, and the tokens between them. Pure."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

from google.protobuf.message import Message as Protobuf

from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import Session
from services.session.errors import BadPageToken
from services.session.model import milliseconds

PAGE_BYTES = 2 * 1024 * 1024
"""No page is larger, unless its first item is: a message over gRPC has at most 4 MiB."""

Place = tuple[int, str]
"""Of a session in a list: its creation in milliseconds since 1970, and its id."""

Item = TypeVar("Item", bound=Protobuf)


def page_of_sessions(
    sessions: Sequence[Session], end: Place | None, limit: int
) -> tuple[list[Session], str]:
    """Return the page and the next one's token.

    The sessions come newest first. They are all there are, or, with an *end*, all down to there.
    """
    known = [session for session in sessions if end is None or place_of(session) >= end]
    page = _leading(known, place_of, limit)
    if len(page) < len(known):
        return page, _token(place_of(page[-1]))
    return page, _token(end) if end else ""


def page_of_messages(
    messages: Sequence[Message], end: int | None, limit: int
) -> tuple[list[Message], str]:
    """Return the page, newest first, and the next one's token.

    The messages, in any order, are all there are, or, with an *end*, all down to that position.
    Two outcomes that a loss of the live store drove apart may share a position: a page that began
    between them would leave one out, so a page has both.
    """
    known = [message for message in messages if end is None or message.position >= end]
    page = _leading(sorted(known, key=_position, reverse=True), _position, limit)
    return page, str(page[-1].position) if len(page) < len(known) or end else ""


def _leading(ordered: Sequence[Item], key: Callable[[Item], Any], limit: int) -> list[Item]:
    """Return the first items that fit, whole groups of the same key, and at least one group."""
    page: list[Item] = []
    size = 0
    for _, group in groupby(ordered, key):
        items = list(group)
        size += sum(item.ByteSize() for item in items)
        if page and (len(page) + len(items) > limit or size > PAGE_BYTES):
            break
        page += items
    return page


def _position(message: Message) -> int:
    return message.position


def place_of(session: Session) -> Place:
    """Return a session's place in a list."""
    return milliseconds(session.create_time), session.session_id


def _token(place: Place) -> str:
    return f"{place[0]}.{place[1]}"


def parse_place(token: str) -> Place | None:
    """Return the place that a token names, None for an empty one. Raises BadPageToken."""
    if not token:
        return None
    created, _, session_id = token.partition(".")
    if not (_is_number(created) and session_id):
        raise BadPageToken
    return int(created), session_id


def parse_position(token: str) -> int:
    """Return the position that a token names, 0 for an empty one. Raises BadPageToken."""
    if not token:
        return 0
    if not (_is_number(token) and int(token) > 0):
        raise BadPageToken
    return int(token)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15  # noqa: PLR2004 - fits int64
