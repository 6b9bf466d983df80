"""Page tokens: where a list of documents goes on. Opaque to callers, and checked when they return.

base64url( version 1 | crc32 of the rest | seconds | nanoseconds | document id )
"""

import base64
import binascii
import struct
import zlib
from dataclasses import dataclass

from services.runtime.errors import InvalidArgument

DEFAULT_PAGE = 50
LARGEST_PAGE = 200
VERSION = 1
HEAD = struct.Struct(">BI")
PLACE = struct.Struct(">qi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The last document of a page: the next one begins behind it."""

    seconds: int
    nanos: int
    document_id: str


def page_token(place: Place) -> str:
    """Return the token from which a list goes on behind *place*."""
    body = PLACE.pack(place.seconds, place.nanos) + place.document_id.encode()
    return base64.urlsafe_b64encode(HEAD.pack(VERSION, zlib.crc32(body)) + body).decode()


def parse_page_token(token: str) -> Place | None:
    """Return where to go on, None for the start; raises InvalidArgument for any other text."""
    if not token:
        return None
    try:
        return _unpacked(base64.b64decode(token, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, struct.error) as error:
        problem = "is not from an earlier answer: leave it empty to start anew"
        raise InvalidArgument("page_token", problem) from error


def _unpacked(raw: bytes) -> Place:
    (version, checksum), body = HEAD.unpack_from(raw), raw[HEAD.size :]
    if version != VERSION or checksum != zlib.crc32(body):
        raise ValueError(raw)
    seconds, nanos = PLACE.unpack_from(body)
    return Place(seconds=seconds, nanos=nanos, document_id=body[PLACE.size :].decode())


def page_size(size: int) -> int:
    """Return how many documents a page holds; raises InvalidArgument outside of 0 to 200."""
    if not 0 <= size <= LARGEST_PAGE:
        raise InvalidArgument("page_size", f"is {size}: choose 0 to {LARGEST_PAGE}")
    return size or DEFAULT_PAGE
