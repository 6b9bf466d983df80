"""The session store on Redis or Valkey: one raw WATCH transaction for each change."""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Self, TypeVar
from uuid import uuid4

from opentelemetry.trace import Span, SpanKind
from redis.exceptions import RedisError

from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1.message_pb2 import Message
from services.runtime import deadline, names, telemetry
from services.session.adapters import keys
from services.session.adapters.census import LiveIndex, later_entry_of
from services.session.adapters.codec import Corrupt
from services.session.adapters.dialing import Patience
from services.session.adapters.due import DueTurns
from services.session.adapters.event_log import EventLogs
from services.session.adapters.line import Change, Line, Outcome, decided
from services.session.adapters.outbox import Outbox
from services.session.adapters.owners import OwnerLists
from services.session.adapters.passing import is_passing, is_worth_another_try
from services.session.adapters.quarantine import Quarantined
from services.session.adapters.reading import read_draft
from services.session.adapters.refusals import refusal
from services.session.adapters.replies import decoded_or_none, is_wrong_type, pairs
from services.session.adapters.retrying import pause
from services.session.adapters.servers import Servers
from services.session.adapters.session_log import SessionLogs
from services.session.adapters.topologies import servers_at
from services.session.adapters.transaction import CommitUnknown, Conflict, Transaction
from services.session.adapters.writes import commands_of
from services.session.errors import (
    ConflictExhausted,
    ErrorType,
    NotReplicated,
    StoreFull,
    StoreUnavailable,
)
from services.session.measuring import committed
from services.session.model import Draft, Timing
from services.session.observing import operation_labels, seen, timed
from services.session.ports import Pool, Pressure, Reads

T = TypeVar("T")

_REFRESH_MARGIN_MS = 60_000
_SPAN = MappingProxyType({names.DB_SYSTEM: "redis", names.DB_OPERATION: "MULTI"})
_FAILURES = (StoreUnavailable, StoreFull, NotReplicated, ConflictExhausted)
_CAUSES = MappingProxyType({Conflict: "changed", CommitUnknown: "unknown"})
"""Why a transaction starts again; anything else is a lost connection, or a slot that moved."""


class RedisSessionStore(
    EventLogs, SessionLogs, DueTurns, Outbox, OwnerLists, Quarantined, LiveIndex
):
    """Sessions and turns in Redis. Safe for any number of processes at the same time."""

    def __init__(
        self,
        servers: Servers,
        *,
        timing: Timing,
        timeout: float,
        replica_timeout: float | None = None,
    ) -> None:
        super().__init__(servers)
        self._timing = timing
        self._timeout = timeout
        self._replica_timeout = replica_timeout
        self._lines: weakref.WeakValueDictionary[str, Line] = weakref.WeakValueDictionary()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        timing: Timing,
        timeout: float = 5.0,  # noqa: ASYNC109 - of each operation
        connect_timeout: float = 2.0,
        connections: int = 64,
        replica_timeout: float | None = None,
    ) -> AsyncIterator[Self]:
        """Open a store on the servers at *url*; *timeout* in seconds bounds each operation.

        With a *replica_timeout* a transaction returns only what a replica has confirmed within it.
        Raises BadStoreUrl.
        """
        patience = Patience(answer=timeout, connect=connect_timeout)
        async with servers_at(url, patience=patience, connections=connections) as servers:
            yield cls(servers, timing=timing, timeout=timeout, replica_timeout=replica_timeout)

    @property
    def servers(self) -> Servers:
        """What the store stands on, for what needs no store: the wake-up channel."""
        return self._servers

    async def transact(
        self,
        session_id: str,
        decide: Callable[[Draft], T],
        reads: Reads = Reads(),  # noqa: B008 - frozen
        prepare: Callable[[Draft], Awaitable[None]] | None = None,
    ) -> tuple[T, Draft]:
        with (
            timed(),
            telemetry.span(
                names.TRANSACT, kind=SpanKind.CLIENT, attributes=_SPAN, failures=_FAILURES
            ) as span,
        ):
            change = Change(decide=decide, reads=reads, prepare=prepare)
            return await self._carried_out(session_id, change, span)

    async def _carried_out(self, session_id: str, change: Change, span: Span) -> tuple[Any, Draft]:
        """Wait for the session; whoever has its turn before may carry the change out, too."""
        line = self._lines.setdefault(session_id, Line())
        until = time.monotonic() + (deadline.bounded(self._timeout) or self._timeout)
        line.waiting[change] = None
        try:
            async with line.lock:
                if change.outcome is not None:
                    return change.result()
                del line.waiting[change]
                return await self._until_committed(session_id, change, line, until, span)
        finally:
            line.waiting.pop(change, None)

    async def _until_committed(
        self, session_id: str, change: Change, line: Line, until: float, span: Span
    ) -> tuple[Any, Draft]:
        damaged, rounds = False, 0
        while True:
            try:
                await self._attempt(session_id, change, line, damaged=damaged)
                return change.result()
            except Corrupt:
                damaged = True
            except (Conflict, CommitUnknown, RedisError, OSError) as error:
                rounds += 1
                span.set_attribute(names.CONFLICTS, rounds)
                passes = _may_pass(error) or await self._log_begins_anew(session_id, error)
                if time.monotonic() >= until or not passes:
                    raise _gave_up(error, session_id, rounds) from error
                _count_conflict(error)
            await asyncio.sleep(pause(rounds))

    async def _log_begins_anew(self, session_id: str, error: Exception) -> bool:
        """Whether all that was in the way was something else in the place of the session's log.

        It is put aside. All but the log is written then: the next round finds that, as it does
        after a lost reply.
        """
        replaced = is_wrong_type(error)
        return replaced and await self._put_aside(keys.session_events_key(session_id))

    async def _attempt(self, session_id: str, change: Change, line: Line, *, damaged: bool) -> None:
        companions = line.companions(change)
        async with Transaction(self._servers, keys.record_key(session_id)) as transaction:
            others = [each.reads.operation for each in companions if each.reads.operation]
            draft, markers = await read_draft(transaction, session_id, change.reads, others)
            draft.damaged = damaged
            if draft.session is None:
                companions.clear()  # it is brought back, or made, for one caller alone
            outcomes = await decided(draft, change, companions, markers)
            drafts = [found[1] for found in outcomes.values() if isinstance(found, tuple)]
            await self._commit(transaction, [draft for draft in drafts if draft.writes])
            if drafts and not await self._replicated(transaction, session_id):
                outcomes = {each: _unless_failed(found) for each, found in outcomes.items()}
        line.settle(outcomes)

    async def _commit(self, transaction: Transaction, drafts: Sequence[Draft]) -> None:
        """Write all drafts in one step."""
        if drafts:
            commands = [each for draft in drafts for each in commands_of(draft, self._timing)]
            await transaction.commit(commands)
        for draft in drafts:
            committed(draft)

    async def _replicated(self, transaction: Transaction, session_id: str) -> bool:
        """Whether no single server has alone what the callers are told, if that was set."""
        if self._replica_timeout is None:
            return True
        key = keys.replication_key(session_id)
        confirmed = await transaction.replicated(self._replica_timeout, key)
        if not confirmed:
            seen(ErrorType.TIMEOUT, "no replica has confirmed")
        return confirmed

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
        return [decoded_or_none(kind, raw) for raw in raws]

    async def window(self, session_id: str) -> list[Message]:
        record, reply = await self._pipeline(
            [("GET", keys.record_key(session_id)), ("HGETALL", keys.messages_key(session_id))],
            errors=True,
        )
        session = decoded_or_none(SessionRecord, record)
        if session is None or is_wrong_type(reply):
            return []
        raws = pairs(reply)
        found = (raws.get(entry.message_id.encode()) for entry in session.window)
        messages = (decoded_or_none(Message, raw) for raw in found)
        return [message for message in messages if message is not None]

    async def time_left(self, session_ids: Sequence[str]) -> list[int]:
        found = await self._pipeline([("PTTL", keys.record_key(s)) for s in session_ids])
        return [max(0, left) for left in found]

    async def session_and_time_left(self, session_id: str) -> tuple[SessionRecord | None, int]:
        key = keys.record_key(session_id)
        raw, left = await self._pipeline([("GET", key), ("PTTL", key)], errors=True)
        if isinstance(left, Exception):
            raise refusal(left) from left
        return decoded_or_none(SessionRecord, raw), max(0, left)

    async def keep_alive(self, session_id: str, left: int | None = None) -> int:
        record, messages = keys.record_key(session_id), keys.messages_key(session_id)
        if left is None:
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
                    (
                        *("PEXPIRE", keys.session_events_key(session_id)),
                        *(str(idle + _REFRESH_MARGIN_MS), "GT"),
                    ),
                    ("PEXPIRE", record, str(idle), "GT"),
                    later_entry_of(session_id, idle),
                ]
            )
            return idle
        return left

    async def content_id(self) -> str:
        key = keys.content_key()
        _, name = await self._pipeline([("SET", key, uuid4().hex, "NX"), ("GET", key)])
        return bytes(name).decode()

    def pool(self) -> Pool:
        pools = [links.pool() for links in self._servers.primaries()]
        return Pool(
            lent=sum(pool.lent for pool in pools), waiting=sum(pool.waiting for pool in pools)
        )

    async def pressure(self) -> Pressure:
        told = await self._pipeline_to_all([("INFO", "memory")])
        return Pressure(memory_share=max(_memory_share(reply) for (reply,) in told))


def _count_conflict(error: Exception) -> None:
    cause = _CAUSES.get(type(error), "moved" if is_passing(error) else "lost")
    labels = {**operation_labels(), names.CONFLICT_CAUSE: cause}
    telemetry.current().counter(names.STORE_CONFLICTS).add(1, labels)


def _unless_failed(outcome: Outcome) -> Outcome:
    """Return what a caller is told whose change no replica has confirmed."""
    return outcome if isinstance(outcome, Exception) else NotReplicated()


def _may_pass(error: Exception) -> bool:
    return isinstance(error, Conflict | CommitUnknown) or is_worth_another_try(error)


def _gave_up(error: Exception, session_id: str, rounds: int) -> Exception:
    if isinstance(error, Conflict):
        seen(ErrorType.CONFLICT_EXHAUSTED, f"{rounds} conflicts")
        return ConflictExhausted(session_id, rounds)
    return refusal(error.lost if isinstance(error, CommitUnknown) else error)


def _memory_share(told: bytes) -> float:
    info = dict(line.split(b":", 1) for line in told.split() if b":" in line)
    limit = int(info.get(b"maxmemory", 0))
    return int(info[b"used_memory"]) / limit if limit else 0.0
