"""The envelope around every stored record: version byte, crc32, protobuf."""

import zlib
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from services.session.ports import Damage

VERSION = 1
_HEADER = 5

M = TypeVar("M", bound=Message)


class Corrupt(Exception):
    """The stored bytes are not what was written."""

    def __init__(self, kind: type[Message], damage: Damage) -> None:
        super().__init__(f"{kind.__name__}: {damage}")
        self.damage = damage


def encode(message: Message) -> bytes:
    """Return the record in its envelope."""
    body = message.SerializeToString()
    return bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "big") + body


def decode(kind: type[M], raw: bytes) -> M:
    """Return the record; raises Corrupt if a bit of it is wrong."""
    if len(raw) < _HEADER or raw[0] != VERSION:
        raise Corrupt(kind, Damage.VERSION)
    body = raw[_HEADER:]
    if zlib.crc32(body).to_bytes(4, "big") != raw[1:_HEADER]:
        raise Corrupt(kind, Damage.CHECKSUM)
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise Corrupt(kind, Damage.UNPARSABLE) from error
