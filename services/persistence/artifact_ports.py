"""What the files are that agents make, and what they need from a database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from maieutic.v1.artifact_pb2 import Artifact
from services.persistence.model import Place
from services.runtime.server import MEBIBYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactLimits:
    """How much one attempt of a turn may put."""

    file_bytes: int = MEBIBYTE
    """Most bytes of a file, up to 1 MiB."""

    files: int = 200
    """Most files of an attempt of a turn."""

    total_bytes: int = 16 * MEBIBYTE
    """Most bytes of an attempt's files together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewArtifact:
    """A file to put."""

    artifact_id: str
    tenant: str
    user_id: str
    session_id: str
    turn_id: str
    fence: int
    """Of the attempt that puts it."""
    path: str
    media_type: str
    sha256: str
    """In hex."""
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact:
    """A file that was put."""

    artifact: Artifact
    content: bytes = field(default=b"", repr=False)
    """If it was asked for."""


class Artifacts(Protocol):
    """Files of turns. Every method raises ArchiveUnavailable while the database is away."""

    async def put_artifact(self, new: NewArtifact, limits: ArtifactLimits) -> Artifact:
        """Store a file; one that is there already stays as it is.

        Raises SessionNotFound, SessionNotYetArchived, TurnHasEnded, InvalidArgument for a path
        that cannot stand beside another one of the attempt, and ArtifactLimitReached.
        """
        ...

    async def artifact(self, artifact_id: str, *, with_content: bool) -> StoredArtifact | None:
        """Return a file, named by an outcome or not; None if there is none."""
        ...

    async def artifacts_of_session(
        self, session_id: str, *, after: Place, limit: int
    ) -> Sequence[Artifact]:
        """Return the files that outcomes name, the oldest first, from after a place on."""
        ...

    async def sweep_artifacts(self, *, older_than: float, turns: int) -> int:
        """Remove files that no outcome names, put so many seconds ago; returns how many.

        Those of turns without an outcome stay. Looks at so many turns at most.
        """
        ...
