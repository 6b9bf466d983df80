"""Leaves a host alone that keeps failing, and lets one caller at a time see whether it is back.

closed ── failures in a row ──▶ open ── pause ──▶ half open ── success ──▶ closed
                                  ▲                   └─────── failure ──▶ open
"""

import time
from collections.abc import Callable


class LeftAlone(Exception):
    """The host is left alone; it may be asked for again after so many seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"left alone for {wait:.3f} s")
        self.wait = wait


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
        self._era = 0

    def admit(self) -> int:
        """Return the era in which the caller may try; raises LeftAlone.

        Who may try reports how it went, with the era: `succeeded`, `failed` or `released`. What
        was begun before the host was left alone says nothing of how it is now: it is not heard, so
        that it can neither close the breaker nor let a second caller through beside the first.
        """
        if self._opened is None:
            return self._era
        left = self._opened + self._pause - self._clock()
        if left > 0:
            raise LeftAlone(left)
        if self._probing:
            raise LeftAlone(self._pause)
        self._probing = True
        return self._era

    def succeeded(self, era: int) -> None:
        """The host answered."""
        if era == self._era:
            self._failures, self._opened, self._probing = 0, None, False

    def failed(self, era: int) -> bool:
        """The host did not answer, or that it is broken; returns whether it is left alone now."""
        if era != self._era:
            return False
        self._failures += 1
        if self._failures < self._limit:
            return False
        # A probe that fails is the next failure in the row, and opens the breaker again.
        self._opened, self._probing = self._clock(), False
        self._era += 1
        return True

    def released(self, era: int) -> None:
        """The caller gave up before there was an answer, which says nothing about the host."""
        if era == self._era:
            self._probing = False
