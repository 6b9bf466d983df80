"""The clock of unfinished work: takes what is overdue and moves it on."""

import asyncio
import logging
import time

from services.runtime.errors import ServiceError
from services.session.live import LiveSessions
from services.session.logs import read_log
from services.session.model import CANCELLING, Draft, Timing
from services.session.ports import Reads, SessionStore
from services.session.publisher import Publisher
from services.session.sweeping import sweep
from services.session.views import text_of

_log = logging.getLogger(__name__)

TAKE_AT_ONCE = 50
HOLD_MS = 5_000
"""A turn that is taken is left alone this long by other replicas; if its taker dies, they try."""
MEMORY_LIMIT = 0.8


class Sweeper:
    """One runs in every replica; what two of them do twice is harmless."""

    def __init__(
        self,
        *,
        store: SessionStore,
        live: LiveSessions,
        publisher: Publisher,
        timing: Timing,
        interval: float,
    ) -> None:
        self._store = store
        self._live = live
        self._publisher = publisher
        self._timing = timing
        self._interval = interval
        self._in_contact_since = time.monotonic()
        self._memory_share = 0.0

    def memory_full(self) -> bool:
        """Whether the store is so full that no new turns should be taken on."""
        return self._memory_share > MEMORY_LIMIT

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self._once()
            except ServiceError as error:
                # Workers could not renew their leases either: none is judged for a while.
                self._in_contact_since = time.monotonic()
                _log.warning("the sweep was broken off: %s", error)
            await asyncio.sleep(self._interval)

    async def _once(self) -> None:
        self._memory_share = (await self._store.pressure()).memory_share
        overdue = await self._store.take_overdue(HOLD_MS, TAKE_AT_ONCE)
        results = await asyncio.gather(*map(self._sweep, overdue), return_exceptions=True)
        for shard in await self._store.out_shards():
            await self._publisher.pump(shard)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _sweep(self, turn_id: str) -> None:
        turn = await self._store.turn(turn_id)
        if turn is None:
            await self._store.forget_due(turn_id)
            return
        frames = await read_log(self._store, turn_id) if turn.phase == CANCELLING else []
        judge = time.monotonic() - self._in_contact_since >= self._timing.lease / 1000

        def decide(draft: Draft) -> None:
            sweep(draft, turn_id, text_of(frames), self._timing, judge_leases=judge)

        session_id = turn.job.message.session_id
        _, draft = await self._live.transact(session_id, decide, Reads(turns=[turn_id]))
        self._publisher.after(draft)
