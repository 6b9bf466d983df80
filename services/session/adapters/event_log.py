"""The turns' event logs: one stream each, whose entry ids are fence and sequence."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from maieutic.v1.turn_service_pb2 import TurnFrame
from services.session.adapters import keys
from services.session.adapters.link import Command
from services.session.adapters.logs import Logs
from services.session.adapters.refusals import refusal
from services.session.adapters.replies import event_id, is_wrong_type
from services.session.errors import ErrorType
from services.session.model import LOG_FRAMES, EventId
from services.session.observing import seen
from services.session.ports import Append, AppendOutcome

TRIM_EVERY = 100
"""Frames of an attempt between two looks at how long the log is."""


class EventLogs(Logs):
    """Appends that Redis itself fences, and reads from any place."""

    async def append(self, appends: Sequence[Append]) -> list[str]:
        commands: list[Command] = []
        for append in appends:
            fence, seq = append.first
            key = keys.events_key(append.turn_id)
            commands.append(("MULTI",))
            commands += [
                ("XADD", key, "NOMKSTREAM", f"{fence}-{seq + n}", "f", frame.SerializeToString())
                for n, frame in enumerate(append.frames)
            ]
            if _trims(append):
                commands.append(("XTRIM", key, "MAXLEN", "~", LOG_FRAMES))
            commands += [("PUBLISH", keys.wake_channel(append.turn_id), b""), ("EXEC",)]
        replies = iter(await self._pipeline(commands, errors=True))
        outcomes = []
        for append in appends:
            own = [next(replies) for _ in range(len(append.frames) + _trims(append) + 3)]
            outcomes.append(await self._appended(append, own[-1]))
        return outcomes

    async def _appended(self, append: Append, reply: Any) -> str:
        if isinstance(reply, Exception):
            raise refusal(reply) from reply
        added = reply[0]
        if added is None:
            return AppendOutcome.MISSING
        if not isinstance(added, Exception):
            return AppendOutcome.APPLIED
        if is_wrong_type(added):
            await self._put_aside(keys.events_key(append.turn_id))
            return AppendOutcome.MISSING
        (last,) = await self._pipeline(
            [("XREVRANGE", keys.events_key(append.turn_id), "+", "-", "COUNT", "1")]
        )
        if not last:
            return AppendOutcome.MISSING
        tail, (fence, seq) = event_id(last[0][0]), append.first
        ours = EventId(fence, seq + len(append.frames) - 1)
        return AppendOutcome.APPLIED if tail == ours else AppendOutcome.FENCED

    async def events(
        self, turn_id: str, after: EventId | None, limit: int
    ) -> list[tuple[EventId, TurnFrame]] | None:
        key = keys.events_key(turn_id)
        start = f"({after.fence}-{after.seq}" if after else "-"
        exists, entries = await self._pipeline(
            [("EXISTS", key), ("XRANGE", key, start, "+", "COUNT", str(limit))], errors=True
        )
        if is_wrong_type(entries):
            await self._put_aside(key)
            return None
        for reply in (exists, entries):
            if isinstance(reply, Exception):
                raise refusal(reply) from reply
        return list(_readable(entries)) if exists else None


def _readable(entries: Iterable[Any]) -> Iterator[tuple[EventId, TurnFrame]]:
    """Yield the frames; whoever reads them sees that a damaged one between them is missing."""
    for entry, fields in entries:
        try:
            frame = TurnFrame.FromString(fields[b"f"] if isinstance(fields, dict) else fields[1])
        except DecodeError:
            seen(ErrorType.SERIALIZATION, "TurnFrame: unparsable")
            continue
        yield event_id(entry), frame


def _trims(append: Append) -> bool:
    """Whether the log's length is looked at: now and then, so that it costs next to nothing."""
    first = append.first.seq
    return first // TRIM_EVERY != (first + len(append.frames)) // TRIM_EVERY
