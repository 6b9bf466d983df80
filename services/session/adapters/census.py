"""Counts what the store holds, from an index of live sessions that every write keeps."""

import random
import time
from collections.abc import Sequence

from maieutic.session.v1.record_pb2 import SessionRecord
from services.session.adapters import keys
from services.session.adapters.link import Command
from services.session.adapters.pipeline import Pipeline
from services.session.adapters.quarantine import count_of
from services.session.adapters.replies import milliseconds, scored
from services.session.ids import SHARDS, shard_of
from services.session.model import settled
from services.session.ports import Census

_SAMPLED_SHARDS = 8
_ACTIVE = "+inf"
_NOT_YET = str(2**53 - 1)
"""Idle, and cannot expire before the archive has all of it."""
_PARTS = (keys.record_key, keys.messages_key, keys.annotations_key, keys.session_events_key)


def entry_of(record: SessionRecord, expire_ms: int) -> Command:
    """Return what puts a session into the index, as it expires at *expire_ms* if it can."""
    session = record.session
    score = str(expire_ms) if settled(record) else _NOT_YET
    if session.active_turn_id or record.waiting_turn_ids:
        score = _ACTIVE
    return ("ZADD", keys.live_key(shard_of(session.session_id)), score, session.session_id)


def later_entry_of(session_id: str, idle_ms: int) -> Command:
    """Return what notes that a session expires later, because it was read."""
    expire_ms = time.time_ns() // 1_000_000 + idle_ms
    return ("ZADD", keys.live_key(shard_of(session_id)), "XX", "GT", str(expire_ms), session_id)


def no_entry_of(session_id: str) -> Command:
    """Return what takes a session out of the index."""
    return ("ZREM", keys.live_key(shard_of(session_id)), session_id)


class LiveIndex(Pipeline):
    """Counts by shard, and a look at some sessions: as quick for millions as for ten."""

    async def census(self) -> Census:
        (time_,) = await self._pipeline([("TIME",)])
        now = milliseconds(time_)
        replies = await self._pipeline(
            [command for shard in range(SHARDS) for command in _counts(shard, now)]
        )
        _, live, active, aside, due = (replies[part::5] for part in range(5))
        dues = [int(float(score)) for reply in due for _, score in scored(reply)]
        return Census(
            sessions=sum(live),
            active=sum(active),
            quarantined=sum(aside),
            overdue_ms=max(0, now - min(dues, default=now)),
            session_bytes=await self._sizes([shard for shard in range(SHARDS) if live[shard]]),
        )

    async def _sizes(self, shards: Sequence[int]) -> list[int]:
        chosen = random.sample(shards, min(len(shards), _SAMPLED_SHARDS))
        found = await self._pipeline([("ZRANDMEMBER", keys.live_key(s)) for s in chosen])
        sessions = [found_id.decode() for found_id in found if found_id is not None]
        sizes = await self._pipeline([part for s in sessions for part in _sizes_of(s)])
        count = len(_PARTS)
        parts = (sizes[first : first + count] for first in range(0, len(sizes), count))
        return [sum(size or 0 for size in part) for part in parts if part[0] is not None]


def _counts(shard: int, now_ms: int) -> list[Command]:
    live = keys.live_key(shard)
    return [
        ("ZREMRANGEBYSCORE", live, "-inf", str(now_ms)),
        ("ZCARD", live),
        ("ZCOUNT", live, _ACTIVE, _ACTIVE),
        count_of(shard),
        ("ZRANGE", keys.due_key(shard), "0", "0", "WITHSCORES"),
    ]


def _sizes_of(session_id: str) -> list[Command]:
    return [("MEMORY", "USAGE", part(session_id)) for part in _PARTS]
