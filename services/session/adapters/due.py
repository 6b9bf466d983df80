"""The clock of unfinished work: one sorted set per shard."""

from redis.exceptions import RedisError

from services.session.adapters import keys
from services.session.adapters.pipeline import Pipeline
from services.session.adapters.refusals import refusal
from services.session.adapters.replies import milliseconds, scored
from services.session.adapters.transaction import CommitUnknown, Conflict, Transaction
from services.session.ids import SHARDS, shard_of


class DueTurns(Pipeline):
    """Turns by the time of their next check, which replicas share without asking each other."""

    async def take_overdue(self, hold_ms: int, limit: int) -> list[str]:
        (time_,) = await self._pipeline([("TIME",)])
        now = milliseconds(time_)
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
            for turn, score in scored(reply)
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
            async with Transaction(self._servers, key) as transaction:
                (raw,) = await transaction.read([key], [("GET", key)])
                if raw is None:
                    await transaction.commit([("ZREM", keys.due_key(shard_of(turn_id)), turn_id)])
        except (Conflict, CommitUnknown):
            return  # somebody brings it back just now, or it is forgotten the next time
        except (RedisError, OSError) as error:
            raise refusal(error) from error


def _put_off(score: int, now_ms: int, hold_ms: int) -> int:
    """Return a later score, at least *hold_ms* from now.

    It is made of the old one in whole steps, so that replicas that look at the same time arrive at
    the same: only the first of them changes anything.
    """
    return score + ((now_ms - score) // hold_ms + 2) * hold_ms
