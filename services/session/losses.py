"""Whether the live store was emptied: what is not back yet must not be denied then.

A turn that was accepted a moment before is in neither store until its job, its outcome or its
acceptance comes by. That it does not exist cannot be said before they had the time to.
"""

import logging
import time
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)

BACK_WITHIN_SECONDS = 120.0
"""After this, what nobody has brought back is taken for gone."""


class Losses:
    """Notices that the store's content is not the one it had before."""

    def __init__(
        self,
        content_id: Callable[[], Awaitable[str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask for the name of the store's content by *content_id*; *clock* is in seconds."""
        self._content_id = content_id
        self._clock = clock
        self._content = ""
        self._lost_at: float | None = None

    async def look(self) -> None:
        """Compare the store with what it was at the last look; raises StoreUnavailable."""
        content = await self._content_id()
        if self._content and content != self._content:
            self._lost_at = self._clock()
            _log.warning("the session store was emptied: it fills again from the archive and jobs")
        self._content = content

    async def lately(self) -> bool:
        """Whether so much was lost so short ago that what is missing may yet come back."""
        await self.look()
        if self._lost_at is None:
            return False
        return self._clock() - self._lost_at < BACK_WITHIN_SECONDS
