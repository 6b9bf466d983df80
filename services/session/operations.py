"""Requests that are carried out once, however often they come. Pure.

A change is written together with a marker under its request id. A second try, after a reply that
was lost, finds the marker; so does another request that comes under the same id.
"""

import hashlib
from collections.abc import Callable
from typing import TypeAlias

from google.protobuf.message import Message

from maieutic.session.v1.record_pb2 import Operation
from maieutic.v1 import session_service_pb2 as sessions
from maieutic.v1.turn_service_pb2 import CancelTurnRequest
from services.session.errors import RequestIdTaken
from services.session.model import Draft

Change: TypeAlias = (
    sessions.UpdateSessionRequest
    | sessions.EndSessionRequest
    | sessions.TouchSessionRequest
    | sessions.DeleteNoteRequest
    | sessions.DeleteBookmarkRequest
    | CancelTurnRequest
)
"""A request that leaves no trace of its own but the marker."""


def request_hash(request: Message) -> bytes:
    """Return what tells a request from another one under the same request id."""
    # The name too: two kinds of requests may have the same bytes.
    name = request.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + request.SerializeToString(deterministic=True)).digest()


def once(draft: Draft, request: Change, change: Callable[[], object]) -> None:
    """Carry the request out by *change*, unless it was before. Raises RequestIdTaken."""
    digest = request_hash(request)
    if not done_before(draft, digest):
        change()
        done_now(draft, request.request_id, digest)


def done_before(draft: Draft, digest: bytes) -> bool:
    """Whether this request was carried out before; raises RequestIdTaken if another one was."""
    if draft.operation is None:
        return False
    if draft.operation.request_hash != digest:
        raise RequestIdTaken
    return True


def done_now(draft: Draft, request_id: str, digest: bytes) -> None:
    """Leave the request's marker."""
    revision = draft.session.session.revision if draft.session is not None else 0
    operation = Operation(request_hash=digest, revision=revision, time_ms=draft.now_ms)
    draft.carried_out = request_id, operation
