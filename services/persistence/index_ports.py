"""What the registry of index versions needs from a database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexVersion:
    """How an index is made: one of several that stand side by side."""

    version_id: str
    """Made of all of these but the space and the URL."""
    label: str
    embedder_url: str
    embedder: str
    dimension: int
    chunk_characters: int
    chunk_overlap: int
    space: str
    """Under which name its vectors are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStanding:
    """A version, and how far it is."""

    version: IndexVersion
    current: bool = False
    """It is searched."""
    previous: bool = False
    """It was searched before, and can be gone back to."""
    building: bool
    """A document may be missing in it."""
    dropping: bool = False
    documents: int = 0
    """That it has, in the content that is searched."""
    failed: int = 0
    """That it cannot have."""
    total: int = 0
    """That it should have."""


class IndexRegistry(Protocol):
    """Index versions, and the one that is searched.

    Every method raises ArchiveUnavailable while the database is away.
    """

    async def register_index(self, version: IndexVersion, *, first_only: bool) -> None:
        """Have every document indexed under the version, too.

        The first one of all is searched from then on, keeps its vectors under the embedder's name,
        and has what was indexed so before there were versions. *first_only* does nothing if there
        is one already. What failed before is tried again. Raises VersionBusy while it is dropped.
        """
        ...

    async def index_versions(self, *, counted: bool) -> Sequence[IndexStanding]:
        """Return all versions, the oldest first, with their documents if they are to be counted."""
        ...

    async def switch_index(self, version_id: str, *, force: bool) -> str:
        """Have searches use the version; an empty id is the previous one. Returns its id.

        Unless forced it has every document that the current one has. Documents that it lacks are
        to be indexed then, and are not found until they are. Raises VersionNotFound,
        VersionIncomplete and VersionBusy.
        """
        ...

    async def drop_index(self, version_id: str, *, gone: bool) -> None:
        """Have nothing indexed under the version any more; once it is *gone*, forget it.

        Raises VersionBusy for the one that is searched.
        """
        ...
