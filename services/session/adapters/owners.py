"""The lists of sessions by owner."""

from collections.abc import Sequence

from services.session.adapters import keys
from services.session.adapters.pipeline import Pipeline
from services.session.adapters.replies import scored


class OwnerLists(Pipeline):
    """One sorted set per owner, in a slot of its own: written first, pruned on listing."""

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
        found = [(int(float(score)), member.decode()) for member, score in scored(reply)]
        ordered = sorted(found, reverse=True)
        return [place for place in ordered if before is None or place < before][:limit]

    async def list_length(self, owner: str) -> int:
        (length,) = await self._pipeline([("ZCARD", keys.owner_key(owner))])
        return int(length)
