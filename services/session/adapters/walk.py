"""A slow walk over all keys, which the replicas share: its place is kept in the store."""

from services.session.adapters.pipeline import Pipeline
from services.session.adapters.replies import milliseconds
from services.session.ports import Walked, WalkPlace

_PLACE = "maieutic:walk"
_TAKEN = "maieutic:walk:taken"


class KeyWalk(Pipeline):
    """One server after the other, each from cursor to cursor; see `KeySpace`."""

    async def take_turn(self, hold_ms: int) -> bool:
        (taken,) = await self._pipeline([("SET", _TAKEN, "1", "PX", hold_ms, "NX")])
        return taken is not None

    async def next_keys(self, count: int) -> Walked:
        fields = ("node", "cursor", "ended")
        kept, time_ = await self._pipeline([("HMGET", _PLACE, *fields), ("TIME",)])
        node, cursor, ended = (int(value or 0) for value in kept)
        nodes = self._servers.primaries()
        if node >= len(nodes):  # there were more of them
            node, cursor = 0, 0
        cursor, found = await KeyWalk(nodes[node]).scan(cursor, count)
        over = cursor == 0
        place = WalkPlace(node=(node + over) % len(nodes), cursor=cursor)
        return Walked(
            keys=found,
            place=place,
            round_over=over and place.node == 0,
            now_ms=milliseconds(time_),
            last_round_ms=ended,
        )

    async def scan(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Return the next cursor and keys of a single server."""
        ((after, found),) = await self._pipeline([("SCAN", cursor, "COUNT", count)])
        return int(after), [name.decode(errors="replace") for name in found]

    async def walked(self, step: Walked) -> None:
        place: list[str | int] = ["node", step.place.node, "cursor", step.place.cursor]
        if step.round_over:
            place += ["ended", step.now_ms]
        await self._pipeline([("HSET", _PLACE, *place)])
