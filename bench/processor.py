"""The processor time of processes, by the part they play."""

import asyncio
import os
from collections.abc import Mapping

import psutil

REST_SHARE = 0.2
"""Of one processor: more than all parts together use when there is nothing to do."""
LOOK_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 20.0


class ProcessorTime:
    """CPU seconds used since the last look, by part; children count with their parent."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        """Look at *processes*, ids by part, and at this one as the clients."""
        self._roots = {**processes, "clients": os.getpid()}
        self._last = self._now()

    def restart(self) -> None:
        """Forget what was used so far."""
        self._last = self._now()

    def used(self) -> Mapping[str, float]:
        """Return the seconds since the last restart."""
        now = self._now()
        return {part: seconds - self._last[part] for part, seconds in now.items()}

    async def rest(self) -> None:
        """Wait until the parts have done what the last load left to do."""
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            busy = True
            while busy:
                before = self._of_the_backend()
                await asyncio.sleep(LOOK_SECONDS)
                busy = self._of_the_backend() - before > REST_SHARE * LOOK_SECONDS

    def _of_the_backend(self) -> float:
        return sum(seconds for part, seconds in self._now().items() if part != "clients")

    def _now(self) -> Mapping[str, float]:
        roots = set(self._roots.values())
        return {
            part: _tree(psutil.Process(pid), roots - {pid}) for part, pid in self._roots.items()
        }


def _tree(process: psutil.Process, others: set[int]) -> float:
    """Return the CPU seconds of a process and what it started, apart from the other parts."""
    try:
        times, children = process.cpu_times(), process.children()
    except psutil.Error:
        return 0.0  # a helper of a server, which has ended meanwhile
    below = sum(_tree(child, others) for child in children if child.pid not in others)
    return float(times.user + times.system) + below
