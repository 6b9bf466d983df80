"""The logs of what happens in sessions: one stream each, written with the turns' own changes."""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1.session_service_pb2 import SessionFrame
from services.session.adapters import keys
from services.session.adapters.link import Command
from services.session.adapters.logs import Logs
from services.session.adapters.refusals import refusal
from services.session.adapters.replies import decoded_or_none, event_id, is_wrong_type
from services.session.errors import ErrorType
from services.session.model import EventId
from services.session.observing import seen
from services.session.ports import SessionLook


class SessionLogs(Logs):
    """Reads a session and its log as they stand at one moment."""

    async def look_at_session(
        self, session_id: str, since: EventId | None, limit: int
    ) -> SessionLook:
        key = keys.session_events_key(session_id)
        entries: Command = ("XREVRANGE", key, "+", "-", "COUNT", 1)
        if since is not None:
            entries = ("XRANGE", key, f"{since.fence}-{since.seq}", "+", "COUNT", limit)
        commands: list[Command] = [
            ("MULTI",),
            ("GET", keys.record_key(session_id)),
            entries,
            ("EXEC",),
        ]
        answer = (await self._pipeline(commands, errors=True))[-1]
        if isinstance(answer, Exception):
            raise refusal(answer) from answer
        record, found = answer
        if is_wrong_type(found):
            await self._put_aside(key)
            found = []
        elif isinstance(found, Exception):
            raise refusal(found) from found
        session = decoded_or_none(SessionRecord, record)
        return SessionLook(record=session, entries=list(_entries(found)))


def _entries(found: Iterable[Any]) -> Iterator[tuple[EventId, SessionFrame | None]]:
    for entry, fields in found:
        raw = fields[b"f"] if isinstance(fields, dict) else fields[1]
        yield event_id(entry), _frame(raw)


def _frame(raw: bytes) -> SessionFrame | None:
    try:
        return SessionFrame.FromString(raw)
    except DecodeError:
        seen(ErrorType.SERIALIZATION, "SessionFrame: unparsable")
        return None
