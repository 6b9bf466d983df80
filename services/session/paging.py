"""Pages of sessions and of messages, and the tokens between them. Pure."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message as Protobuf

from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import (
    SESSION_ORDER_LAST_USED_FIRST,
    SESSION_ORDER_NEWEST_FIRST,
    SESSION_ORDER_OLDEST_FIRST,
    Session,
    SessionOrder,
)
from services.session.errors import BadPageToken
from services.session.model import milliseconds

PAGE_BYTES = 2 * 1024 * 1024
"""No page is larger, unless its first item is: a message over gRPC has at most 4 MiB."""

Item = TypeVar("Item", bound=Protobuf)

_PLACE = re.compile(r"([0-9]{1,14})\.([A-Za-z0-9_-]{1,128}(?:\.(?:[0-9]{1,9}|r))?)")
"""A time that every calendar has, and an id, of which a specification's has two parts."""


class Place(NamedTuple):
    """A place in a list of sessions: the time in ms by which it is sorted, and the session's id.

    What is kept in a session is listed in the same way.
    """

    at: int
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How a list of sessions is sorted."""

    kind: SessionOrder.ValueType
    mark: str
    """What tells this order's page tokens from another's."""

    @property
    def ascending(self) -> bool:
        """Whether the oldest come first."""
        return self.kind == SESSION_ORDER_OLDEST_FIRST

    def place(self, session: Session) -> Place:
        """Return the session's place."""
        used = self.kind == SESSION_ORDER_LAST_USED_FIRST and session.HasField("last_used_time")
        at = session.last_used_time if used else session.create_time
        return Place(milliseconds(at), session.session_id)

    def follows(self, place: Place, after: Place | None) -> bool:
        """Whether a place comes after another; all come after None."""
        if after is None:
            return True
        return place > after if self.ascending else place < after

    def sorted(self, sessions: Collection[Session]) -> list[Session]:
        """Return the sessions in this order."""
        return sorted(sessions, key=self.place, reverse=not self.ascending)

    def nearest(self, places: Collection[Place]) -> Place | None:
        """Return the place that comes first, None without any."""
        return (min if self.ascending else max)(places, default=None)

    def token(self, place: Place | None) -> str:
        """Return the token of the page after a place; empty without one."""
        if place is None:
            return ""
        return f"{place.at}.{place.session_id}" + (f".{self.mark}" if self.mark else "")

    def parse(self, token: str) -> Place | None:
        """Return the place that a token names, None for an empty one. Raises BadPageToken."""
        if not token:
            return None
        ending = f".{self.mark}" if self.mark else ""
        found = _PLACE.fullmatch(token.removesuffix(ending))
        if found is None or not token.endswith(ending):
            raise BadPageToken
        return Place(int(found[1]), found[2])


NEWEST_FIRST = Order(kind=SESSION_ORDER_NEWEST_FIRST, mark="")
OLDEST_FIRST = Order(kind=SESSION_ORDER_OLDEST_FIRST, mark="o")
LAST_USED_FIRST = Order(kind=SESSION_ORDER_LAST_USED_FIRST, mark="u")


def page_of_sessions(
    sessions: Sequence[Session], end: Place | None, limit: int, order: Order = NEWEST_FIRST
) -> tuple[list[Session], Place | None]:
    """Return the page, and the place after which to go on unless it is the last.

    The sessions come in the order. They are all there are, or, with an *end*, all down to there.
    """
    known = [s for s in sessions if end is None or not order.follows(order.place(s), end)]
    page = _leading(known, order.place, limit)
    return page, order.place(page[-1]) if len(page) < len(known) else end


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """In which direction messages are listed."""

    oldest_first: bool = False
    mark: str = ""
    """What tells this direction's page tokens from the other's."""

    def follows(self, message: Message, beyond: int) -> bool:
        """Whether the message comes after a position; all come after 0."""
        up = self.oldest_first
        return message.position > beyond if up else not beyond or message.position < beyond

    def token(self, position: int) -> str:
        """Return the token of the page beyond a position; empty for 0."""
        return f"{position}{self.mark}" if position else ""

    def parse(self, token: str) -> int:
        """Return the position that a token names, 0 for an empty one. Raises BadPageToken."""
        if not token:
            return 0
        number = token.removesuffix(self.mark)
        if token != number + self.mark or not _is_number(number) or not int(number):
            raise BadPageToken
        return int(number)


BACK = Direction()
FORTH = Direction(oldest_first=True, mark="o")


def page_of_messages(
    messages: Collection[Message], end: int | None, limit: int, direction: Direction = BACK
) -> tuple[list[Message], str]:
    """Return the page and the next one's token.

    The messages, in any order, are all there are, or, with an *end*, all as far as that position.
    Two outcomes that a loss of the live store drove apart may share a position: a page that began
    between them would leave one out, so a page has both.
    """
    known = [m for m in messages if end is None or not direction.follows(m, end)]
    known.sort(key=_position, reverse=not direction.oldest_first)
    page = _leading(known, _position, limit)
    if len(page) == len(known) and not end:
        return page, ""
    return page, direction.token(page[-1].position if page else end or 0)


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


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15  # noqa: PLR2004 - fits int64
