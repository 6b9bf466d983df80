"""Facts for the archive, until the broker has confirmed them: one stream per shard."""

from collections.abc import Sequence

from services.session.adapters import keys
from services.session.adapters.pipeline import Pipeline
from services.session.adapters.replies import pairs
from services.session.ids import SHARDS


class Outbox(Pipeline):
    """The `out` streams, which transactions write and the publisher empties."""

    async def out_shards(self) -> list[int]:
        lengths = await self._pipeline([("XLEN", keys.out_key(shard)) for shard in range(SHARDS)])
        return [shard for shard, length in enumerate(lengths) if length]

    async def out_read(self, shard: int, limit: int) -> list[tuple[bytes, str, bytes]]:
        (entries,) = await self._pipeline(
            [("XRANGE", keys.out_key(shard), "-", "+", "COUNT", str(limit))]
        )
        facts = []
        for entry, fields in entries:
            values = pairs(fields)
            facts.append((entry, values[b"k"].decode(), values[b"b"]))
        return facts

    async def out_drop(self, shard: int, entries: Sequence[bytes]) -> None:
        if entries:
            await self._pipeline([("XDEL", keys.out_key(shard), *entries)])
