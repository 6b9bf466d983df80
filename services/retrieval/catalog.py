"""Which index versions there are, and which is searched, as the archive knows it."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import grpc

from maieutic.archive.v1 import index_registry_service_pb2 as pb
from maieutic.archive.v1.index_registry_service_pb2_grpc import IndexRegistryServiceStub
from maieutic.v1.index_admin_service_pb2 import IndexVersion
from services.retrieval.claims import archive_errors
from services.retrieval.model import Splitter

ID_DIGITS = 16
SPACE_BYTES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What makes an index version."""

    embedder_url: str
    embedder: str
    dimension: int
    chunk_characters: int
    chunk_overlap: int

    def splitter(self) -> Splitter:
        """Return what cuts documents for it."""
        return Splitter(
            embedder=self.embedder, size=self.chunk_characters, overlap=self.chunk_overlap
        )

    @property
    def label(self) -> str:
        """Embedder, splitter and parameters in words."""
        return self.splitter().version

    @property
    def version_id(self) -> str:
        """The version's id: equal for all that make the same vectors of the same chunks."""
        return sha256(f"{self.label}\0{self.dimension}".encode()).hexdigest()[:ID_DIGITS]

    def new_space(self) -> str:
        """Return a name for the version's vectors that none had before.

        What a late worker writes to a dropped version must not come back with the next one.
        """
        return f"{self.embedder}@{self.version_id}-{secrets.token_hex(SPACE_BYTES)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A version in the registry."""

    recipe: Recipe
    space: str
    """Under which name its vectors are kept."""
    state: IndexVersion


class Catalog:
    """The archive's calls about index versions; raises what the archive raises.

    Each may be made again.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._archive = IndexRegistryServiceStub(channel)

    async def register(self, recipe: Recipe, *, space: str, first_only: bool = False) -> None:
        """Have every document indexed so, too, unless it is not the first and is to be."""
        version = IndexVersion(
            version_id=recipe.version_id,
            embedder_url=recipe.embedder_url,
            embedder=recipe.embedder,
            dimension=recipe.dimension,
            chunk_characters=recipe.chunk_characters,
            chunk_overlap=recipe.chunk_overlap,
        )
        registration = pb.RegisteredIndexVersion(version=version, label=recipe.label, space=space)
        with archive_errors():
            await self._archive.RegisterIndexVersion(
                pb.RegisterIndexVersionRequest(registration=registration, first_only=first_only)
            )

    async def versions(self, *, counted: bool = False) -> Sequence[Listed]:
        """Return all versions, the oldest first."""
        request = pb.ListRegisteredIndexVersionsRequest(counted=counted)
        with archive_errors():
            answer = await self._archive.ListRegisteredIndexVersions(request)
        return [_listed(one) for one in answer.versions]

    async def point(self, version_id: str, *, force: bool) -> str:
        """Have searches use the version, the previous one if the id is empty; returns its id."""
        request = pb.PointToIndexVersionRequest(version_id=version_id, force=force)
        with archive_errors():
            return (await self._archive.PointToIndexVersion(request)).version_id

    async def remove(self, version_id: str, *, gone: bool) -> None:
        """Have nothing indexed under the version any more; once it is *gone*, forget it."""
        request = pb.RemoveIndexVersionRequest(version_id=version_id, gone=gone)
        with archive_errors():
            await self._archive.RemoveIndexVersion(request)


def _listed(registered: pb.RegisteredIndexVersion) -> Listed:
    version = registered.version
    recipe = Recipe(
        embedder_url=version.embedder_url,
        embedder=version.embedder,
        dimension=version.dimension,
        chunk_characters=version.chunk_characters,
        chunk_overlap=version.chunk_overlap,
    )
    return Listed(recipe=recipe, space=registered.space, state=version)
