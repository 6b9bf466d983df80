"""Asking after turns that have been accepted and have no outcome.

The live store brings them to their end by itself. Only if it lost them does it need the archive,
and only the archive can know: it hands them over, and what is still there is left alone.
"""

import logging

from services.persistence.confirming import Confirmations
from services.persistence.ports import Facts
from services.persistence.settings import EnsureOptions
from services.runtime import names, telemetry
from services.runtime.repeating import again_and_again

LOG = logging.getLogger(__name__)


class Sweeper:
    """Hands unfinished turns to the session service, again and again."""

    def __init__(
        self, *, archive: Facts, confirmations: Confirmations, options: EnsureOptions
    ) -> None:
        self._archive = archive
        self._confirmations = confirmations
        self._options = options

    async def run(self) -> None:
        """Sweep until cancelled; what fails is tried again once its lease is over."""
        seconds, what = self._options.interval, "unfinished turns are asked after"
        await again_and_again(self.sweep, seconds=seconds, what=what)

    async def sweep(self) -> list[str]:
        """Hand over what is overdue, once; returns the turns that the live store had lost."""
        jobs = await self._archive.unfinished_turns(
            older_than=self._options.after,
            lease=self._options.lease,
            limit=self._options.sessions,
        )
        rebuilt = await self._confirmations.ensure(jobs)
        if rebuilt:
            telemetry.current().counter(names.LOST_TURNS).add(len(rebuilt))
            LOG.warning("the live store had lost %d turns: %s", len(rebuilt), ", ".join(rebuilt))
        return rebuilt
