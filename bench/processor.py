"""The processor time of processes, by the part they play."""

import os
from collections.abc import Mapping

import psutil

from tests.stack import RealStack


class ProcessorTime:
    """CPU seconds used since the last look, by part; children count with their parent."""

    def __init__(self, stack: RealStack) -> None:
        self._roots = {**stack.processes(), "clients": os.getpid()}
        self._last = self._now()

    def restart(self) -> None:
        """Forget what was used so far."""
        self._last = self._now()

    def used(self) -> Mapping[str, float]:
        """Return the seconds since the last restart."""
        now = self._now()
        return {part: seconds - self._last[part] for part, seconds in now.items()}

    def _now(self) -> Mapping[str, float]:
        roots = set(self._roots.values())
        return {part: _tree(pid, roots - {pid}) for part, pid in self._roots.items()}


def _tree(pid: int, others: set[int]) -> float:
    """Return the CPU seconds of a process and what it started, apart from the other parts."""
    process = psutil.Process(pid)
    total = _seconds(process)
    for child in process.children():
        if child.pid not in others:
            total += _tree(child.pid, others)
    return total


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
