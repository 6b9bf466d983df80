"""The session store on Redis or Valkey: one raw WATCH transaction for each change."""

import asyncio
import random
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Self, TypeVar
from uuid import uuid4

from opentelemetry.trace import Span, SpanKind
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's own name
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own name
)

from maieutic.bus.v1.bus_pb2 import SessionAnnotations
from maieutic.session.v1.record_pb2 import Operation, SessionRecord, TurnRecord
from maieutic.v1.message_pb2 import Message
from maieutic.v1.turn_service_pb2 import TurnFrame
from services.runtime import deadline, names, telemetry
from services.runtime.errors import DataLoss, NotFound
from services.session.adapters import keys
from services.session.adapters.codec import Corrupt, decode
from services.session.adapters.link import Command, Links
from services.session.adapters.transaction import (
    CommitUnknown,
    Conflict,
    Transaction,
    is_wrong_type,
)
from services.session.adapters.writes import commands_of
from services.session.errors import ConflictExhausted, StoreUnavailable
from services.session.ids import SHARDS, shard_of
from services.session.measuring import committed
from services.session.model import Draft, EventId, Timing
from services.session.ports import Append, AppendOutcome, Pressure, Reads

T = TypeVar("T")

_LONGEST_PAUSE = 0.1
_SHORTEST_PAUSE = 0.002
_QUARANTINE_MS = 30 * 86_400_000
_REFRESH_MARGIN_MS = 60_000
_SPAN = MappingProxyType({names.DB_SYSTEM: "redis", names.DB_OPERATION: "MULTI"})
_CAUSES = MappingProxyType({Conflict: "changed", CommitUnknown: "unknown"})
"""Why a transaction starts again; anything else is a lost connection."""


class RedisSessionStore:
    """Sessions and turns in Redis. Safe for any number of processes at the same time."""

    def __init__(self, links: Links, *, timing: Timing, timeout: float) -> None:
        self._links = links
        self._timing = timing
        self._timeout = timeout
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        timing: Timing,
        timeout: float = 5.0,  # noqa: ASYNC109 - of each operation
        connections: int = 64,
    ) -> AsyncIterator[Self]:
        """Open a store on the server at *url*; *timeout* in seconds bounds each operation."""
        async with Links.to(url, timeout=timeout, connections=connections) as links:
            yield cls(links, timing=timing, timeout=timeout)

    @property
    def links(self) -> Links:
        """The connections, for what needs no store: the wake-up channel."""
        return self._links

    async def transact(
        self,
        session_id: str,
        decide: Callable[[Draft], T],
        reads: Reads = Reads(),  # noqa: B008 - frozen
        prepare: Callable[[Draft], Awaitable[None]] | None = None,
    ) -> tuple[T, Draft]:
        with telemetry.span(
            names.TRANSACT,
            kind=SpanKind.CLIENT,
            attributes=_SPAN,
            failures=(StoreUnavailable, ConflictExhausted, DataLoss),
        ) as span:
            return await self._until_committed(session_id, decide, reads, prepare, span)

    async def _until_committed(
        self,
        session_id: str,
        decide: Callable[[Draft], T],
        reads: Reads,
        prepare: Callable[[Draft], Awaitable[None]] | None,
        span: Span,
    ) -> tuple[T, Draft]:
        lock = self._locks.setdefault(session_id, asyncio.Lock())
        until = time.monotonic() + (deadline.bounded(self._timeout) or self._timeout)
        lost, rounds = False, 0
        async with lock:
            while True:
                try:
                    return await self._attempt(session_id, decide, reads, prepare)
                except Corrupt:
                    lost = True
                except NotFound as error:
                    if lost:
                        message = "the stored record is damaged, and the archive has no copy"
                        raise DataLoss(message) from error
                    raise
                except (Conflict, CommitUnknown, ConnectionError, TimeoutError, OSError) as error:
                    rounds += 1
                    span.set_attribute(names.CONFLICTS, rounds)
                    _count_conflict(error)
                    if time.monotonic() >= until:
                        raise _gave_up(error, session_id, rounds) from error
                except RedisError as error:
                    raise StoreUnavailable(str(error)) from error
                pause = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2 ** min(rounds, 6))
                await asyncio.sleep(random.random() * pause)  # noqa: S311 - jitter

    async def _attempt(
        self,
        session_id: str,
        decide: Callable[[Draft], T],
        reads: Reads,
        prepare: Callable[[Draft], Awaitable[None]] | None,
    ) -> tuple[T, Draft]:
        async with self._transaction() as transaction:
            draft = await self._read(transaction, session_id, reads)
            if prepare is not None:
                await prepare(draft)
            result = decide(draft)
            if draft.writes:
                await transaction.commit(commands_of(draft, self._timing))
                committed(draft)
            return result, draft

    def _transaction(self) -> Transaction:
        return Transaction(self._links)

    async def _read(self, transaction: Transaction, session_id: str, reads: Reads) -> Draft:
        record = keys.record_key(session_id)
        turn_keys = [keys.turn_key(turn) for turn in reads.turns]
        commands: list[tuple[str, ...]] = [("TIME",), ("GET", record)]
        commands += [("GET", key) for key in turn_keys]
        if reads.tails:
            commands += [
                ("XREVRANGE", keys.events_key(t), "+", "-", "COUNT", "1") for t in reads.turns
            ]
        if reads.window:
            commands.append(("HGETALL", keys.messages_key(session_id)))
        # What follows is written with the session's record only, whose watch is enough.
        marker = keys.operation_key(session_id, reads.operation)
        if reads.annotations:
            commands.append(("GET", keys.annotations_key(session_id)))
        if reads.operation:
            commands.append(("GET", marker))
        replies = await transaction.read([record, *turn_keys], commands)
        operation = replies.pop() if reads.operation else None
        annotations = replies.pop() if reads.annotations else None
        count = len(reads.turns)
        draft = Draft(session_id=session_id, now_ms=_milliseconds(replies[0]))
        draft.session = await self._decoded(transaction, SessionRecord, record, replies[1], draft)
        draft.operation = await self._decoded(transaction, Operation, marker, operation, draft)
        await self._decode_turns(transaction, draft, reads.turns, replies[2 : 2 + count])
        if reads.tails:
            draft.tails = _tails(reads.turns, replies[2 + count : 2 + 2 * count])
        if reads.window:
            await self._decode_window(transaction, draft, replies[-1])
        if reads.annotations:
            await self._decode_annotations(transaction, draft, annotations)
        await self._read_line(transaction, draft, running=reads.running)
        return draft

    async def _decode_turns(
        self, transaction: Transaction, draft: Draft, turn_ids: Sequence[str], raws: Sequence[Any]
    ) -> None:
        for turn_id, raw in zip(turn_ids, raws, strict=True):
            key = keys.turn_key(turn_id)
            turn = await self._decoded(transaction, TurnRecord, key, raw, draft)
            if turn is not None:
                draft.turns[turn_id] = turn

    async def _decode_window(self, transaction: Transaction, draft: Draft, reply: Any) -> None:
        if draft.session is None:
            return
        if is_wrong_type(reply):
            await _put_aside(transaction, keys.messages_key(draft.session_id), draft)
            raise Corrupt(str(reply))
        raws = _pairs(reply)
        for entry in draft.session.window:
            raw = raws.get(entry.message_id.encode())
            if raw is None:
                # A part has expired or was evicted: the whole session counts as gone.
                draft.session = None
                draft.messages.clear()
                return
            key = keys.messages_key(draft.session_id)
            message = await self._decoded(transaction, Message, key, raw, draft)
            if message is not None:
                draft.messages[entry.message_id] = message

    async def _decode_annotations(
        self, transaction: Transaction, draft: Draft, raw: bytes | None
    ) -> None:
        if draft.session is None:
            return
        key = keys.annotations_key(draft.session_id)
        found = await self._decoded(transaction, SessionAnnotations, key, raw, draft)
        if found is None:
            found = SessionAnnotations()
        if found.revision != draft.session.annotations_revision:
            # As with a message that is missing: the archive has the whole session.
            draft.session = None
            draft.messages.clear()
            return
        draft.annotations = found

    async def _read_line(self, transaction: Transaction, draft: Draft, *, running: bool) -> None:
        """Read the turns in line, too: whatever ends the one before promotes the first of them."""
        waiting = draft.session.waiting_turn_ids if draft.session else ()
        active = draft.session.session.active_turn_id if draft.session and running else ""
        wanted = [turn for turn in (active, *waiting) if turn]
        missing = [turn for turn in wanted if turn not in draft.turns]
        if not missing:
            return
        turn_keys = [keys.turn_key(turn) for turn in missing]
        raws = await transaction.read(turn_keys, [("GET", key) for key in turn_keys])
        await self._decode_turns(transaction, draft, missing, raws)
        present = [turn for turn in waiting if turn in draft.turns]
        draft.record.ClearField("waiting_turn_ids")
        draft.record.waiting_turn_ids.extend(present)

    async def _decoded(
        self, transaction: Transaction, kind: type[Any], key: str, raw: bytes | None, draft: Draft
    ) -> Any:
        if raw is None:
            return None
        try:
            return _decoded(kind, raw)
        except Corrupt:
            await _put_aside(transaction, key, draft)
            raise

    async def session(self, session_id: str) -> SessionRecord | None:
        return (await self.sessions([session_id]))[0]

    async def sessions(self, session_ids: Sequence[str]) -> list[SessionRecord | None]:
        return await self._records(SessionRecord, [keys.record_key(s) for s in session_ids])

    async def turn(self, turn_id: str) -> TurnRecord | None:
        return (await self.turns([turn_id]))[0]

    async def turns(self, turn_ids: Sequence[str]) -> list[TurnRecord | None]:
        return await self._records(TurnRecord, [keys.turn_key(t) for t in turn_ids])

    async def _records(self, kind: type[Any], names: Sequence[str]) -> list[Any]:
        raws = await self._pipeline([("GET", name) for name in names], errors=True)
        return [_decoded_or_none(kind, raw) for raw in raws]

    async def window(self, session_id: str) -> list[Message]:
        record, reply = await self._pipeline(
            [("GET", keys.record_key(session_id)), ("HGETALL", keys.messages_key(session_id))],
            errors=True,
        )
        session = _decoded_or_none(SessionRecord, record)
        if session is None or is_wrong_type(reply):
            return []
        raws = _pairs(reply)
        found = (raws.get(entry.message_id.encode()) for entry in session.window)
        messages = (_decoded_or_none(Message, raw) for raw in found)
        return [message for message in messages if message is not None]

    async def time_left(self, session_ids: Sequence[str]) -> list[int]:
        found = await self._pipeline([("PTTL", keys.record_key(s)) for s in session_ids])
        return [max(0, left) for left in found]

    async def keep_alive(self, session_id: str) -> int:
        record, messages = keys.record_key(session_id), keys.messages_key(session_id)
        (left,) = await self.time_left([session_id])
        idle = self._timing.idle
        # Every refresh aborts writers that watch the record: only one that matters is made.
        if 0 < left < idle - min(_REFRESH_MARGIN_MS, idle // 2):
            await self._pipeline(
                [
                    ("PEXPIRE", messages, str(idle + _REFRESH_MARGIN_MS), "GT"),
                    (
                        *("PEXPIRE", keys.annotations_key(session_id)),
                        *(str(idle + _REFRESH_MARGIN_MS), "GT"),
                    ),
                    ("PEXPIRE", record, str(idle), "GT"),
                ]
            )
            return idle
        return left

    async def append(self, appends: Sequence[Append]) -> list[str]:
        commands: list[tuple[str | bytes, ...]] = []
        for append in appends:
            fence, seq = append.first
            key = keys.events_key(append.turn_id)
            commands.append(("MULTI",))
            commands += [
                ("XADD", key, "NOMKSTREAM", f"{fence}-{seq + n}", "f", frame.SerializeToString())
                for n, frame in enumerate(append.frames)
            ]
            commands += [("PUBLISH", keys.wake_channel(append.turn_id), b""), ("EXEC",)]
        replies = iter(await self._pipeline(commands, errors=True))
        outcomes = []
        for append in appends:
            own = [next(replies) for _ in range(len(append.frames) + 3)]
            outcomes.append(await self._appended(append, own[-1]))
        return outcomes

    async def _appended(self, append: Append, reply: Any) -> str:
        if isinstance(reply, Exception):
            raise StoreUnavailable(str(reply)) from reply
        added = reply[0]
        if added is None:
            return AppendOutcome.MISSING
        if not isinstance(added, Exception):
            return AppendOutcome.APPLIED
        (last,) = await self._pipeline(
            [("XREVRANGE", keys.events_key(append.turn_id), "+", "-", "COUNT", "1")]
        )
        if not last:
            return AppendOutcome.MISSING
        tail, (fence, seq) = _event_id(last[0][0]), append.first
        ours = EventId(fence, seq + len(append.frames) - 1)
        return AppendOutcome.APPLIED if tail == ours else AppendOutcome.FENCED

    async def events(
        self, turn_id: str, after: EventId | None, limit: int
    ) -> list[tuple[EventId, TurnFrame]] | None:
        key = keys.events_key(turn_id)
        start = f"({after.fence}-{after.seq}" if after else "-"
        exists, entries = await self._pipeline(
            [("EXISTS", key), ("XRANGE", key, start, "+", "COUNT", str(limit))]
        )
        if not exists:
            return None
        return [
            (
                _event_id(entry),
                TurnFrame.FromString(fields[b"f"] if isinstance(fields, dict) else fields[1]),
            )
            for entry, fields in entries
        ]

    async def list_add(self, owner: str, session_id: str, created_ms: int) -> None:
        # A retry comes later: the place of a session is that of the first try.
        await self._pipeline([("ZADD", keys.owner_key(owner), "LT", str(created_ms), session_id)])

    async def list_remove(self, owner: str, session_ids: Sequence[str]) -> None:
        if session_ids:
            await self._pipeline([("ZREM", keys.owner_key(owner), *session_ids)])

    async def list_page(
        self, owner: str, before: tuple[int, str] | None, limit: int
    ) -> list[tuple[int, str]]:
        key = keys.owner_key(owner)
        top = str(before[0]) if before else "+inf"
        # Those of the same millisecond as the last one seen are read again and skipped here.
        count = str(limit + 64)
        (reply,) = await self._pipeline(
            [("ZRANGE", key, top, "-inf", "BYSCORE", "REV", "LIMIT", "0", count, "WITHSCORES")]
        )
        found = [(int(float(score)), member.decode()) for member, score in _scored(reply)]
        ordered = sorted(found, reverse=True)
        return [place for place in ordered if before is None or place < before][:limit]

    async def list_length(self, owner: str) -> int:
        (length,) = await self._pipeline([("ZCARD", keys.owner_key(owner))])
        return int(length)

    async def take_overdue(self, hold_ms: int, limit: int) -> list[str]:
        (time_,) = await self._pipeline([("TIME",)])
        now = _milliseconds(time_)
        overdue = await self._pipeline(
            [
                (
                    *("ZRANGE", keys.due_key(shard), "-inf", str(now), "BYSCORE"),
                    *("LIMIT", "0", str(limit), "WITHSCORES"),
                )
                for shard in range(SHARDS)
            ]
        )
        found = [
            (shard, turn, _put_off(int(float(score)), now, hold_ms))
            for shard, reply in enumerate(overdue)
            for turn, score in _scored(reply)
        ]
        taken = await self._pipeline(
            [
                ("ZADD", keys.due_key(shard), "XX", "GT", "CH", str(later), turn)
                for shard, turn, later in found
            ]
        )
        return [turn.decode() for (_, turn, _), new in zip(found, taken, strict=True) if new]

    async def forget_due(self, turn_id: str) -> None:
        key = keys.turn_key(turn_id)
        try:
            async with self._transaction() as transaction:
                (raw,) = await transaction.read([key], [("GET", key)])
                if raw is None:
                    await transaction.commit([("ZREM", keys.due_key(shard_of(turn_id)), turn_id)])
        except (Conflict, CommitUnknown):
            return  # somebody brings it back just now, or it is forgotten the next time
        except (RedisError, OSError) as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error

    async def out_shards(self) -> list[int]:
        lengths = await self._pipeline([("XLEN", keys.out_key(shard)) for shard in range(SHARDS)])
        return [shard for shard, length in enumerate(lengths) if length]

    async def out_read(self, shard: int, limit: int) -> list[tuple[bytes, str, bytes]]:
        (entries,) = await self._pipeline(
            [("XRANGE", keys.out_key(shard), "-", "+", "COUNT", str(limit))]
        )
        facts = []
        for entry, fields in entries:
            values = _pairs(fields)
            facts.append((entry, values[b"k"].decode(), values[b"b"]))
        return facts

    async def out_drop(self, shard: int, entries: Sequence[bytes]) -> None:
        if entries:
            await self._pipeline([("XDEL", keys.out_key(shard), *entries)])

    async def content_id(self) -> str:
        key = keys.content_key()
        _, name = await self._pipeline([("SET", key, uuid4().hex, "NX"), ("GET", key)])
        return bytes(name).decode()

    async def pressure(self) -> Pressure:
        (reply,) = await self._pipeline([("INFO", "memory")])
        info = dict(line.split(b":", 1) for line in reply.split() if b":" in line)
        limit = int(info.get(b"maxmemory", 0))
        return Pressure(memory_share=int(info[b"used_memory"]) / limit if limit else 0.0)

    async def _pipeline(self, commands: Sequence[Command], *, errors: bool = False) -> list[Any]:
        """Return the replies; with *errors* also those that are errors, as exceptions."""
        if not commands:
            return []
        try:
            link = await self._links.shared()
            replies = await link.request(commands)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error
        for reply in replies:
            if isinstance(reply, Exception) and not (errors and isinstance(reply, ResponseError)):
                raise StoreUnavailable(str(reply)) from reply
        return replies


def _count_conflict(error: Exception) -> None:
    cause = _CAUSES.get(type(error), "lost")
    telemetry.current().counter(names.STORE_CONFLICTS).add(1, {names.CONFLICT_CAUSE: cause})


def _gave_up(error: BaseException, session_id: str, rounds: int) -> Exception:
    if isinstance(error, Conflict):
        return ConflictExhausted(session_id, rounds)
    return StoreUnavailable(str(error) or type(error).__name__)


def _put_off(score: int, now_ms: int, hold_ms: int) -> int:
    """Return a later score, at least *hold_ms* from now.

    It is made of the old one in whole steps, so that replicas that look at the same time arrive at
    the same: only the first of them changes anything.
    """
    return score + ((now_ms - score) // hold_ms + 2) * hold_ms


def _decoded_or_none(kind: type[Any], raw: bytes | None) -> Any:
    """Return the record; a damaged one counts as absent, and the next transaction puts it aside."""
    if raw is None:
        return None
    try:
        return _decoded(kind, raw)
    except Corrupt:
        return None


def _decoded(kind: type[Any], raw: Any) -> Any:
    if is_wrong_type(raw):
        raise Corrupt(str(raw))
    if isinstance(raw, Exception):
        raise StoreUnavailable(str(raw)) from raw
    return decode(kind, raw)


async def _put_aside(transaction: Transaction, key: str, draft: Draft) -> None:
    aside = keys.quarantine_key(key, draft.now_ms)
    await transaction.commit([("RENAME", key, aside), ("PEXPIRE", aside, str(_QUARANTINE_MS))])


def _milliseconds(reply: Any) -> int:
    return int(reply[0]) * 1000 + int(reply[1]) // 1000


def _event_id(entry: bytes) -> EventId:
    fence, seq = entry.split(b"-")
    return EventId(int(fence), int(seq))


def _tails(turn_ids: Sequence[str], replies: Sequence[Any]) -> dict[str, EventId]:
    return {
        turn: _event_id(entries[0][0])
        for turn, entries in zip(turn_ids, replies, strict=True)
        if entries
    }


def _pairs(reply: Any) -> dict[bytes, bytes]:
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _scored(reply: Any) -> list[tuple[bytes, Any]]:
    if reply and isinstance(reply[0], list | tuple):
        return [(member, score) for member, score in reply]
    return list(zip(reply[::2], reply[1::2], strict=True))
