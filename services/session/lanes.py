"""The lanes of work, and how long a turn of each may run."""

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

INTERACTIVE = "interactive"
ANALYSIS = "analysis"
LONG = "long"

LONGEST_BUDGET = 3600
"""Seconds; a request may not ask for more, either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBudgets:
    """How long a turn may run if its request does not say, by the turn's lane."""

    interactive: int = 600
    """Seconds that a turn for which somebody waits may run, 1 to 3600."""

    analysis: int = 300
    """Seconds that the analysis beside a turn may run, whatever the turn may; 1 to 3600."""

    long: int = 3600
    """Seconds that a turn which makes much may run, 1 to 3600."""

    def of(self, lane: str) -> Duration:
        """Return the budget of one of the lanes above."""
        seconds = {INTERACTIVE: self.interactive, ANALYSIS: self.analysis, LONG: self.long}
        return Duration(seconds=seconds[lane])
