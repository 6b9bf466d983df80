"""The search for what crashes left behind in the live store."""

import logging
import time
from dataclasses import dataclass

from services.runtime import names, telemetry
from services.runtime.repeating import again_and_again
from services.session.model import Timing
from services.session.ports import KeySpace, Leftover, Walked

_log = logging.getLogger(__name__)

_REMOVED_AT_ONCE = 200
"""Of a step that finds more the rest is found again by the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanOptions:
    """How the store is searched for what crashes left behind."""

    interval: float = 5.0
    """Seconds between two steps, of all replicas together; 0 searches nothing."""

    keys: int = 500
    """Keys looked at in a step, about."""

    grace: float = 3600.0
    """Seconds for which everything is left alone."""

    dry_run: bool = False
    """Only log what would be removed."""


class OrphanSearch:
    """One runs in every replica; of all of them one takes the next step."""

    def __init__(self, *, space: KeySpace, timing: Timing, options: OrphanOptions) -> None:
        self._space = space
        self._timing = timing
        self._options = options

    async def run(self) -> None:
        """Search until cancelled."""
        if (seconds := self._options.interval) > 0:
            what = "the search for orphans goes on"
            await again_and_again(self.step, seconds=seconds, what=what)

    async def step(self) -> None:
        """Look at the next keys, unless another replica does."""
        if not await self._space.take_turn(round(self._options.interval * 1000)):
            return
        began = time.perf_counter()
        step = await self._space.next_keys(self._options.keys)
        found = await self._space.leftovers(step, self._grace_ms)
        removed = 0
        for leftover in found:
            if removed == _REMOVED_AT_ONCE:
                break
            removed += await self._settle(leftover)
        else:
            await self._space.walked(step)
        self._measure(step, time.perf_counter() - began)

    @property
    def _grace_ms(self) -> int:
        return round(self._options.grace * 1000)

    async def _settle(self, leftover: Leftover) -> bool:
        """Remove it; False if it stays."""
        if self._options.dry_run:
            _log.warning("orphan, left alone: %s", leftover)
            return False
        if not await self._space.remove(leftover, self._grace_ms, self._timing):
            return False
        _log.info("orphan, removed: %s", leftover)
        labels = {names.ORPHAN_KIND: leftover.kind.value}
        telemetry.current().counter(names.ORPHANS_REMOVED).add(1, labels)
        return True

    def _measure(self, step: Walked, seconds: float) -> None:
        meters = telemetry.current()
        meters.counter(names.ORPHANS_LOOKED_AT).add(len(step.keys))
        meters.histogram(names.ORPHANS_STEP).record(seconds)
        ended = step.now_ms if step.round_over else step.last_round_ms
        meters.gauge(names.ORPHANS_ROUND).set(ended / 1000)
