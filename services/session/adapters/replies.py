"""What the store's replies mean: the same for every topology and protocol version."""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from services.session.adapters.codec import Corrupt, decode
from services.session.adapters.refusals import refusal
from services.session.model import EventId
from services.session.ports import Damage


def is_wrong_type(reply: Any) -> bool:
    """Whether the reply says that the key holds something that nobody here wrote."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def milliseconds(reply: Any) -> int:
    """Return what TIME answers, in ms."""
    return int(reply[0]) * 1000 + int(reply[1]) // 1000


def event_id(entry: bytes) -> EventId:
    """Return the place in a log that a stream's entry id names."""
    fence, seq = entry.split(b"-")
    return EventId(int(fence), int(seq))


def tails(turn_ids: Sequence[str], replies: Sequence[Any]) -> dict[str, EventId]:
    """Return the last event of each turn whose log is not empty."""
    return {
        turn: event_id(entries[0][0])
        for turn, entries in zip(turn_ids, replies, strict=True)
        if entries
    }


def pairs(reply: Any) -> dict[bytes, bytes]:
    """Return a flat list of keys and values, or a map, as a map."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def scored(reply: Any) -> list[tuple[bytes, Any]]:
    """Return a list of members with their scores, flat or nested, as pairs."""
    if reply and isinstance(reply[0], list | tuple):
        return [(member, score) for member, score in reply]
    return list(zip(reply[::2], reply[1::2], strict=True))


def decoded_or_none(kind: type[Any], raw: bytes | None) -> Any:
    """Return the record; a damaged one counts as absent, and the next transaction puts it aside."""
    if raw is None:
        return None
    try:
        return decoded(kind, raw)
    except Corrupt:
        return None


def decoded(kind: type[Any], raw: Any) -> Any:
    """Return the record; raises Corrupt if it is damaged or of another type."""
    if is_wrong_type(raw):
        raise Corrupt(kind, Damage.WRONG_TYPE)
    if isinstance(raw, Exception):
        raise refusal(raw) from raw
    return decode(kind, raw)
