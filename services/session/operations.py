"""Requests that are carried out once, however often they come. Pure.

A change that leaves no trace of its own is written together with a marker under its request id. A
second try, after a reply that was lost, finds the marker.
"""

import hashlib

from google.protobuf.message import Message

from maieutic.session.v1.record_pb2 import Operation
from services.session.errors import RequestIdTaken
from services.session.model import Draft


def request_hash(request: Message) -> bytes:
    """Return what tells a request from another one under the same request id."""
    # The name too: two kinds of requests may have the same bytes.
    name = request.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + request.SerializeToString(deterministic=True)).digest()


def done_before(draft: Draft, digest: bytes) -> bool:
    """Whether this request was carried out before; raises RequestIdTaken if another one was."""
    if draft.operation is None:
        return False
    if draft.operation.request_hash != digest:
        raise RequestIdTaken
    return True


def done_now(draft: Draft, request_id: str, digest: bytes) -> None:
    """Tell the archive of the changed session, and leave the request's marker."""
    draft.tell_session()
    revision = draft.record.session.revision
    operation = Operation(request_hash=digest, revision=revision, time_ms=draft.now_ms)
    draft.carried_out = request_id, operation
