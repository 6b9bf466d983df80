"""Leaves a host alone that keeps failing, and lets one caller at a time see whether it is back.

closed ── failures in a row ──▶ open ── pause ──▶ half open ── success ──▶ closed
                                  ▲                   └─────── failure ──▶ open
"""

import time
from collections.abc import Callable


class Breaker:
    """The state of one host."""

    def __init__(
        self, *, failures: int, pause: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open after that many *failures* in a row, for *pause* seconds."""
        self._limit = failures
        self._pause = pause
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._probing = False

    def admit(self) -> float | None:
        """Return None if the caller may try, else the seconds after which it may ask again.

        Who may try reports how it went: `succeeded`, `failed` or `released`.
        """
        if self._opened is None:
            return None
        left = self._opened + self._pause - self._clock()
        if left > 0:
            return left
        if self._probing:
            return self._pause
        self._probing = True
        return None

    def succeeded(self) -> None:
        """The host answered."""
        self._failures, self._opened, self._probing = 0, None, False

    def failed(self) -> None:
        """The host did not answer, or that it is broken."""
        self._failures += 1
        if self._probing or self._failures >= self._limit:
            self._opened = self._clock()
        self._probing = False

    def released(self) -> None:
        """The caller gave up before there was an answer, which says nothing about the host."""
        self._probing = False
