"""Records that could not be read: put aside in their own slot, and found by an index per shard.

A record's name says all that is known of it: `<damage>:<key without shard>:<when in ms>`.
"""

import time
from collections.abc import Iterable

from services.session.adapters import keys
from services.session.adapters.link import Command
from services.session.adapters.pipeline import Pipeline
from services.session.adapters.replies import scored
from services.session.ids import SHARDS
from services.session.ports import QUARANTINE_MS, Damage, PutAside

_REMEMBERED_MS = 86_400_000
_MOST_DUMPED_BYTES = 8 * 1024 * 1024
"""A part of a value that is no string cannot be had without the whole."""
_SAME_MS = 64
"""So many of the same ms as the last one seen are read again and skipped."""


def put_aside(key: str, damage: Damage, now_ms: int) -> list[Command]:
    """Return what moves a record into quarantine, in one step."""
    tag, rest = key.split(":", 1)
    shard, name = int(tag.strip("{}")), f"{damage}:{rest}:{now_ms}"
    aside, index = keys.quarantine_key(shard, name), keys.quarantine_index_key(shard)
    life = str(QUARANTINE_MS)
    return [
        ("RENAME", key, aside),
        ("PEXPIRE", aside, life),
        ("ZADD", index, str(now_ms), name),
        ("PEXPIRE", index, life),
    ]


class Quarantined(Pipeline):
    """The records in quarantine, of all shards."""

    async def put_aside(
        self, before: tuple[int, str] | None, limit: int
    ) -> tuple[list[PutAside], tuple[int, str] | None]:
        top, oldest = str(before[0]) if before else "+inf", str(_oldest())
        most = str(limit + _SAME_MS)
        replies = await self._pipeline(
            [
                (
                    *("ZRANGE", keys.quarantine_index_key(shard), top, oldest, "BYSCORE", "REV"),
                    *("LIMIT", "0", most, "WITHSCORES"),
                )
                for shard in range(SHARDS)
            ]
        )
        places = [
            (int(float(score)), f"{shard}:{name.decode()}")
            for shard, reply in enumerate(replies)
            for name, score in scored(reply)
        ]
        ordered = [place for place in sorted(places, reverse=True) if not before or place < before]
        records = await self._sized(record_id for _, record_id in ordered[:limit])
        return records, ordered[limit - 1] if len(ordered) > limit else None

    async def find_put_aside(self, record_id: str) -> PutAside | None:
        shard, name = _parsed(record_id)
        (score,) = await self._pipeline([("ZSCORE", keys.quarantine_index_key(shard), name)])
        return next(iter(await self._sized([record_id])), None) if score is not None else None

    async def _sized(self, record_ids: Iterable[str]) -> list[PutAside]:
        """Return the records, without those that the server has lost by itself."""
        ids = list(record_ids)
        sizes = await self._pipeline([("MEMORY", "USAGE", _key(record_id)) for record_id in ids])
        found = zip(ids, sizes, strict=True)
        return [_record(record_id, size) for record_id, size in found if size is not None]

    async def content_put_aside(self, record_id: str, limit: int) -> tuple[str, bytes]:
        key = _key(record_id)
        kind, size = await self._pipeline([("TYPE", key), ("MEMORY", "USAGE", key)])
        content = None
        if kind == b"string":
            (content,) = await self._pipeline([("GETRANGE", key, "0", str(limit - 1))])
        elif (size or 0) <= _MOST_DUMPED_BYTES:
            (content,) = await self._pipeline([("DUMP", key)])
        return kind.decode(), (content or b"")[:limit]

    async def drop_put_aside(self, record_id: str, request_id: str) -> bool:
        marker = keys.quarantine_request_key(request_id)
        _, named = await self._pipeline(
            [("SET", marker, record_id, "NX", "PX", str(_REMEMBERED_MS)), ("GET", marker)]
        )
        if named != record_id.encode():
            return False
        shard, name = _parsed(record_id)
        index = keys.quarantine_index_key(shard)
        await self._pipeline(
            [("MULTI",), ("ZREM", index, name), ("DEL", _key(record_id)), ("EXEC",)]
        )
        return True


def count_of(shard: int) -> Command:
    """Return what counts a shard's records in quarantine."""
    return ("ZCOUNT", keys.quarantine_index_key(shard), str(_oldest()), "+inf")


def _oldest() -> int:
    return time.time_ns() // 1_000_000 - QUARANTINE_MS


def _parsed(record_id: str) -> tuple[int, str]:
    shard, _, name = record_id.partition(":")
    return int(shard), name


def _key(record_id: str) -> str:
    return keys.quarantine_key(*_parsed(record_id))


def _record(record_id: str, size: int) -> PutAside:
    _, name = _parsed(record_id)
    damage, _, rest = name.partition(":")
    key, _, at = rest.rpartition(":")
    return PutAside(record_id=record_id, key=key, damage=Damage(damage), at_ms=int(at), size=size)
