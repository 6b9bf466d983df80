"""Which tests run in the same process, and in what order the processes are given them."""

from pathlib import PurePosixPath

from xdist.scheduler.loadscope import LoadScopeScheduling

WHOLE = ("faults", "outages", "traces", "conversation")
"""Folders whose tests share a deployment: in one process it starts once. The longest come first."""
LONG = ("interleavings",)
"""Folders whose modules take long, so that no process is left alone with one at the end."""
FIRST = (*WHOLE, *LONG)


class Distribution(LoadScopeScheduling):
    """Gives out modules, and whole folders where their tests share a deployment."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(test: str) -> str:
    """Return what is given to one process with this test: the path of its module or folder."""
    module = PurePosixPath(test.partition("::")[0])
    return str(module.parent if module.parent.name in WHOLE else module)


def rank(folder: str) -> int:
    """Return the place of a folder's tests in the run; most have the last one."""
    return FIRST.index(folder) if folder in FIRST else len(FIRST)
