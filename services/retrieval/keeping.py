"""Building, switching and dropping index versions."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from maieutic.v1.index_admin_service_pb2 import IndexVersion
from services.retrieval.catalog import Catalog, Recipe
from services.retrieval.checking import Inventory
from services.retrieval.claims import Claims
from services.retrieval.errors import BadEmbedderUrl, VersionUnusable
from services.retrieval.jobs import Jobs
from services.retrieval.versions import Versions
from services.runtime.errors import InvalidArgument, NotFound

LOOK_SECONDS = 0.25
"""Between two looks at a version that is being built."""
HANDED_OUT = 100


class Keeper:
    """Keeps the index versions; raises what the archive and the index raise.

    The work of a build is that of the workers, one document at a time, as it is for documents
    that are added: it goes on wherever it was cut off, and nothing is told here that is not stored.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        versions: Versions,
        inventory: Inventory,
        claims: Claims,
        jobs: Jobs,
    ) -> None:
        self._catalog = catalog
        self._versions = versions
        self._inventory = inventory
        self._claims = claims
        self._jobs = jobs

    async def all(self) -> Sequence[IndexVersion]:
        """Return all versions, the oldest first."""
        await self._versions.current_id()
        return [one.state for one in await self._catalog.versions(counted=True)]

    async def recipe(
        self, *, embedder_url: str, chunk_characters: int, chunk_overlap: int | None
    ) -> Recipe:
        """Return what is asked for, and as set where nothing is; raises InvalidArgument."""
        own = self._versions.settings
        try:
            embedder = await self._versions.embedder(embedder_url or own.embedder_url)
        except BadEmbedderUrl as error:
            raise InvalidArgument("embedder_url", str(error)) from error
        size = chunk_characters or own.chunk_characters
        overlap = own.chunk_overlap if chunk_overlap is None else chunk_overlap
        if overlap >= size:
            raise InvalidArgument("chunk_overlap", f"is {overlap}: choose less than {size}")
        return Recipe(
            embedder_url=embedder_url or own.embedder_url,
            embedder=embedder.name,
            dimension=embedder.dimension,
            chunk_characters=size,
            chunk_overlap=overlap,
        )

    async def build(self, recipe: Recipe) -> AsyncGenerator[IndexVersion, None]:
        """Have every document indexed so, and yield how far that is until it is done.

        Raises InvalidArgument if no such version can be opened here.
        """
        await self._begin(recipe)
        while True:
            for tenant, document_id in await self._claims.due(HANDED_OUT):
                await self._jobs.publish(tenant, document_id)
            state = await self._state(recipe.version_id)
            yield state
            if not state.building:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _begin(self, recipe: Recipe) -> None:
        await self._versions.current_id()
        version_id = recipe.version_id
        known = {one.state.version_id for one in await self._catalog.versions()}
        await self._catalog.register(recipe, space=recipe.new_space())
        try:
            async with self._versions.using(version_id):
                pass
        except VersionUnusable as error:
            if version_id not in known:
                await self._catalog.remove(version_id, gone=True)
            raise InvalidArgument("embedder_url", error.message) from error

    async def switch(self, version_id: str, *, force: bool) -> str:
        """Have searches use the version, the previous one if the id is empty."""
        return await self._catalog.point(version_id, force=force)

    async def drop(self, version_id: str) -> None:
        """Remove a version with its vectors; one that is not there is no error."""
        await self._catalog.remove(version_id, gone=False)
        for one in await self._catalog.versions():
            if one.state.version_id != version_id:
                continue
            async with self._versions.emptying(one) as index:
                async for tenant in self._inventory.tenants():
                    for document_id in await index.contents(tenant):
                        await index.unlink(tenant, document_id)
            await self._catalog.remove(version_id, gone=True)

    async def _state(self, version_id: str) -> IndexVersion:
        for one in await self._catalog.versions(counted=True):
            if one.state.version_id == version_id:
                return one.state
        raise NotFound("index version", version_id)
