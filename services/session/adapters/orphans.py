"""What crashes and losses leave behind in the store, which nothing else would ever remove.

What looks left behind is judged once more under WATCH, so that nothing is removed that somebody
makes just now.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from redis.exceptions import RedisError, ResponseError

from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from services.session.adapters import keys
from services.session.adapters.link import Command
from services.session.adapters.refusals import refusal
from services.session.adapters.replies import decoded_or_none, event_id, milliseconds, scored
from services.session.adapters.transaction import CommitUnknown, Conflict, Transaction
from services.session.adapters.walk import KeyWalk
from services.session.ids import shard_of
from services.session.model import STUB, Timing
from services.session.ports import QUARANTINE_MS, Leftover, LeftoverKind, Walked

_NO_EXPIRY = -1
_ENTRIES_AT_ONCE = 1_000
"""Members of a list that are asked after together."""
_NAMES = (
    (LeftoverKind.INDEX_ENTRY, re.compile(r"u:[0-9a-f]{40}:s()")),
    (LeftoverKind.LIVE_ENTRY, re.compile(r"\{\d+\}:live()")),
    (LeftoverKind.DUE_MEMBER, re.compile(r"\{\d+\}:due()")),
    (LeftoverKind.SESSION_PART, re.compile(r"\{\d+\}:s:([^:]+):(?:msg|notes|bm|spec|ev)")),
    (LeftoverKind.TURN_LOG, re.compile(r"\{\d+\}:t:([^:]+):ev")),
    (LeftoverKind.TURN, re.compile(r"\{\d+\}:t:([^:]+)")),
    (LeftoverKind.QUARANTINED, re.compile(r"\{\d+\}:q:.+:(\d+)")),
)
_LISTS = frozenset({LeftoverKind.INDEX_ENTRY, LeftoverKind.LIVE_ENTRY, LeftoverKind.DUE_MEMBER})


class _Named(NamedTuple):
    """A key of ours, and what is in its name."""

    kind: LeftoverKind
    key: str
    of: str
    """The session's or turn's id, or the time of a quarantine."""


class RedisKeySpace(KeyWalk):
    """The keys of a store; see `KeySpace`."""

    async def leftovers(self, step: Walked, grace_ms: int) -> list[Leftover]:
        names = [named for key in step.keys if (named := _named(key)) is not None]
        single = [named for named in names if named.kind not in _LISTS]
        left = await self._pipeline([("PTTL", named.key) for named in single])
        endless = [named for named, ms in zip(single, left, strict=True) if ms == _NO_EXPIRY]
        found = await self._without_lead(endless)
        for named in names:
            if named.kind in _LISTS:
                found += await self._of_list(named, step.now_ms, grace_ms)
        return found

    async def _without_lead(self, endless: Sequence[_Named]) -> list[Leftover]:
        """Return those of the keys without expiry that nothing leads to."""
        leads = [_lead_to(named) for named in endless]
        replies = await self._pipeline(leads, errors=True)
        return [
            Leftover(kind=named.kind, key=named.key, member=named.of)
            for named, reply in zip(endless, replies, strict=True)
            if reply in (None, 0)
        ]

    async def _of_list(self, named: _Named, now_ms: int, grace_ms: int) -> list[Leftover]:
        """Return the entries of a list whose session or turn is not here."""
        # What is overdue, or expired, is forgotten where it is counted.
        low, high = f"({now_ms}", "+inf"
        if named.kind is LeftoverKind.INDEX_ENTRY:
            low, high = "-inf", f"({now_ms - grace_ms}"
        between: Command = ("ZRANGE", named.key, low, high, "BYSCORE", "WITHSCORES")
        (reply,) = await self._pipeline([between], errors=True)
        if isinstance(reply, Exception):
            return []  # something else has the name
        entries = [(member.decode(), float(score)) for member, score in scored(reply)]
        found: list[Leftover] = []
        for first in range(0, len(entries), _ENTRIES_AT_ONCE):
            part = entries[first : first + _ENTRIES_AT_ONCE]
            found += await self._absent(named, part)
        return found

    async def _absent(
        self, named: _Named, entries: Sequence[tuple[str, float]]
    ) -> Iterator[Leftover]:
        asked = [("EXISTS", _key_of(named.kind, member)) for member, _ in entries]
        here = await self._pipeline(asked)
        return (
            Leftover(kind=named.kind, key=named.key, member=member, score=score)
            for (member, score), exists in zip(entries, here, strict=True)
            if not exists
        )

    async def remove(self, leftover: Leftover, grace_ms: int, timing: Timing) -> bool:
        try:
            return await self._removed(leftover, grace_ms, timing)
        except (Conflict, CommitUnknown, ResponseError):
            return False  # it is in use after all, or not what its name says
        except (RedisError, OSError) as error:
            raise refusal(error) from error

    async def _removed(self, leftover: Leftover, grace_ms: int, timing: Timing) -> bool:
        match leftover.kind:
            case LeftoverKind.INDEX_ENTRY:
                return await self._remove_index_entry(leftover)
            case LeftoverKind.LIVE_ENTRY | LeftoverKind.DUE_MEMBER:
                return await self._remove_entry(leftover)
            case LeftoverKind.SESSION_PART:
                return await self._expire_part(leftover, grace_ms)
            case LeftoverKind.TURN_LOG:
                return await self._remove_log(leftover, grace_ms)
            case LeftoverKind.TURN:
                return await self._settle_turn(leftover, grace_ms, timing)
            case LeftoverKind.QUARANTINED:
                return await self._expire_quarantined(leftover)

    async def _remove_index_entry(self, leftover: Leftover) -> bool:
        """Remove the entry, unless its session is made just now; that one would not be listed.

        The list and the record may be on two servers. Whoever makes the session watches its absent
        record, puts it on the list, and commits. The record that is written here, and is gone at
        once, breaks that watch: the maker starts again, and puts it on the list again. Whoever has
        committed before has broken the watch that is held here.
        """
        record = keys.record_key(leftover.member)
        async with Transaction(self._servers, record) as transaction:
            (here,) = await transaction.read([record], [("EXISTS", record)])
            if here:
                return False
            await self._pipeline([("ZREM", leftover.key, leftover.member)])
            try:
                await transaction.commit([("SET", record, b""), ("DEL", record)])
            except (Conflict, CommitUnknown):
                entry = (leftover.key, "LT", str(int(leftover.score)), leftover.member)
                await self._pipeline([("ZADD", *entry)])
                return False
        return True

    async def _remove_entry(self, leftover: Leftover) -> bool:
        """Remove an entry that is only ever written together with the key that it is of."""
        of = _key_of(leftover.kind, leftover.member)
        async with Transaction(self._servers, of) as transaction:
            (here,) = await transaction.read([of], [("EXISTS", of)])
            if not here:
                await transaction.commit([("ZREM", leftover.key, leftover.member)])
            return not here

    async def _expire_part(self, leftover: Leftover, grace_ms: int) -> bool:
        """Let it expire after the grace: a session that comes back until then takes it over."""
        record, part = keys.record_key(leftover.member), leftover.key
        async with Transaction(self._servers, record) as transaction:
            reads: list[Command] = [("EXISTS", record), ("PTTL", part)]
            here, left = await transaction.read([record, part], reads)
            if here or left != _NO_EXPIRY:
                return False
            await transaction.commit([("PEXPIRE", part, max(1, grace_ms))])
        return True

    async def _remove_log(self, leftover: Leftover, grace_ms: int) -> bool:
        turn, log = keys.turn_key(leftover.member), leftover.key
        async with Transaction(self._servers, turn) as transaction:
            last_one: Command = ("XREVRANGE", log, "+", "-", "COUNT", 1)
            reads: list[Command] = [("TIME",), ("EXISTS", turn), last_one]
            time_, here, last = await transaction.read([turn, log], reads)
            if here or isinstance(last, Exception):
                return False
            # A fence is the time at which it was given.
            if last and event_id(last[0][0]).fence > milliseconds(time_) - grace_ms:
                return False
            await transaction.commit([("DEL", log)])
        return True

    async def _settle_turn(self, leftover: Leftover, grace_ms: int, timing: Timing) -> bool:
        """Give the turn back to the clock, which ends it; one of a deleted session goes."""
        turn_id, turn = leftover.member, leftover.key
        due = keys.due_key(shard_of(turn_id))
        async with Transaction(self._servers, turn) as transaction:
            reads: list[Command] = [("TIME",), ("GET", turn), ("ZSCORE", due, turn_id)]
            time_, raw, score = await transaction.read([turn], reads)
            found, now = decoded_or_none(TurnRecord, raw), milliseconds(time_)
            if found is None or score is not None or found.fence > now - grace_ms:
                return False
            record = keys.record_key(found.job.message.session_id)
            (stored,) = await transaction.read([record], [("GET", record)])
            session = decoded_or_none(SessionRecord, stored)
            if found.phase == STUB:
                await transaction.commit([("PEXPIRE", turn, timing.stub)])
            elif session is not None and session.tombstone:
                await transaction.commit([("DEL", turn, keys.events_key(turn_id))])
            else:
                await transaction.commit([("ZADD", due, "NX", now, turn_id)])
        return True

    async def _expire_quarantined(self, leftover: Leftover) -> bool:
        until = int(leftover.member) + QUARANTINE_MS
        (armed,) = await self._pipeline([("PEXPIREAT", leftover.key, until, "NX")])
        return bool(armed)


def _named(key: str) -> _Named | None:
    for kind, pattern in _NAMES:
        if (match := pattern.fullmatch(key)) is not None:
            return _Named(kind, key, match[1])
    return None


def _key_of(kind: LeftoverKind, member: str) -> str:
    """Return the key that an entry of a list is of."""
    return keys.turn_key(member) if kind is LeftoverKind.DUE_MEMBER else keys.record_key(member)


def _lead_to(named: _Named) -> Command:
    """Return the command that answers 0 or nothing if nothing leads to the key."""
    match named.kind:
        case LeftoverKind.SESSION_PART:
            return ("EXISTS", keys.record_key(named.of))
        case LeftoverKind.TURN_LOG:
            return ("EXISTS", keys.turn_key(named.of))
        case LeftoverKind.TURN:
            return ("ZSCORE", keys.due_key(shard_of(named.of)), named.of)
        case _:  # what was put aside has nothing that leads to it
            return ("EXISTS", f"{named.key}:")
