"""Whether a server that has not answered for long is asked at all."""

import logging
import time
from collections.abc import Callable

from services.runtime import names, telemetry
from services.session.adapters.passing import NotAsked

_log = logging.getLogger(__name__)

PROBE_SECONDS = 0.5
"""Between two looks whether the server is back; callers are told to retry after twice as long."""


class Breaker:
    """Opens when a server has failed for as long as an operation may take.

    By then the first callers have waited for nothing, and everybody after them would. While it is
    open, one call at a time is let through to probe; the others are answered at once.
    """

    def __init__(
        self, server: str, patience: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open after *patience* seconds without an answer; *server* is for the log."""
        self._server = server
        self._patience = patience
        self._clock = clock
        self._open = False
        self._next_probe = 0.0
        self.failing_since: float | None = None
        """When the failures began that no answer has broken; None in health."""

    def admit(self) -> None:
        """Let the caller ask, or raise NotAsked."""
        if not self._open:
            return
        now = self._clock()
        if now < self._next_probe:
            raise NotAsked(f"{self._server} has not answered for {self._lasted():.1f} s")
        # This caller is the probe. If it goes away silently, another one follows it this late.
        self._next_probe = now + max(self._patience, PROBE_SECONDS)

    def failed(self) -> None:
        """Note that the server did not answer, or could not serve."""
        now = self._clock()
        if self.failing_since is None:
            self.failing_since = now
        if self._open:
            self._next_probe = now + PROBE_SECONDS
        elif now - self.failing_since >= self._patience:
            self._open, self._next_probe = True, now + PROBE_SECONDS
            self._tell("opened", "calls to the store are refused: %s has not answered for %.1f s")

    def answered(self) -> None:
        """Note that the server has served a caller."""
        if self._open:
            self._open = False
            self._tell("closed", "calls to the store are let through: %s answers after %.1f s")
        self.failing_since = None

    def _tell(self, change: str, text: str) -> None:
        counter = telemetry.current().counter(names.STORE_BREAKER)
        counter.add(1, {names.BREAKER_CHANGE: change})
        _log.warning(text, self._server, self._lasted())

    def _lasted(self) -> float:
        now = self._clock()
        return now - (now if self.failing_since is None else self.failing_since)
