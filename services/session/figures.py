"""What the store holds and how much of it is in use, as metrics."""

import asyncio
import logging
from collections import deque
from statistics import fmean

from services.runtime import names, telemetry
from services.runtime.errors import ServiceError
from services.session.ports import SessionStore

_log = logging.getLogger(__name__)

SESSIONS_MEASURED = 256
"""The average size is that of the last so many which were looked at."""


class Figures:
    """One runs in every replica; apart from the clock of unfinished work, which counts for more."""

    def __init__(self, store: SessionStore, interval: float) -> None:
        """Count each *interval* seconds."""
        self._store = store
        self._interval = interval
        self._session_bytes: deque[int] = deque(maxlen=SESSIONS_MEASURED)

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            self._measure_pool()
            try:
                await self._measure_census()
            except ServiceError as error:
                _log.warning("what the store holds is counted later: %s", error.reason)
            await asyncio.sleep(self._interval)

    def _measure_pool(self) -> None:
        meters, pool = telemetry.current(), self._store.pool()
        meters.gauge(names.STORE_LENT).set(pool.lent)
        meters.gauge(names.STORE_WAITING).set(pool.waiting)

    async def _measure_census(self) -> None:
        meters, census = telemetry.current(), await self._store.census()
        meters.gauge(names.SESSIONS_LIVE).set(census.sessions)
        meters.gauge(names.SESSIONS_ACTIVE).set(census.active)
        meters.gauge(names.QUARANTINED).set(census.quarantined)
        meters.gauge(names.DUE_AGE).set(census.overdue_ms / 1000)
        self._session_bytes.extend(census.session_bytes)
        if self._session_bytes:
            meters.gauge(names.SESSION_SIZE).set(fmean(self._session_bytes))
