"""Files that no outcome names: gone after their time."""

import asyncio
import logging
import random

from services.persistence.artifact_ports import Artifacts
from services.persistence.errors import ArchiveUnavailable
from services.persistence.settings import ArtifactOptions

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
        while True:
            # Replicas that started together do not stay together.
            await asyncio.sleep(self._options.interval * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                await self.sweep()
            except ArchiveUnavailable as error:
                LOG.warning("old files are removed later: %s", error.__cause__ or error)

    async def sweep(self) -> int:
        """Remove what is old enough, once; returns how many files."""
        swept = await self._artifacts.sweep_artifacts(older_than=self._options.keep, turns=TURNS)
        if swept:
            LOG.info("%d files that no outcome names are removed", swept)
        return swept
