"""Files that no outcome names: gone after their time."""

import logging

from services.persistence.artifact_ports import Artifacts
from services.persistence.settings import ArtifactOptions
from services.runtime.repeating import again_and_again

LOG = logging.getLogger(__name__)
TURNS = 100
"""Looked at in one transaction."""


class ArtifactSweeper:
    """Removes what attempts have left that failed, were stopped, or lost their turn."""

    def __init__(self, artifacts: Artifacts, options: ArtifactOptions) -> None:
        self._artifacts = artifacts
        self._options = options

    async def run(self) -> None:
        """Sweep until cancelled, after the outcomes that wait on the bus have been read."""
        seconds, what = self._options.interval, "old files are removed"
        await again_and_again(self.sweep, seconds=seconds, what=what)

    async def sweep(self) -> int:
        """Remove what is old enough, once; returns how many files."""
        swept = await self._artifacts.sweep_artifacts(older_than=self._options.keep, turns=TURNS)
        if swept:
            LOG.info("%d files that no outcome names are removed", swept)
        return swept
