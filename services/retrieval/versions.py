"""The index versions that this process has open, and the one that it searches."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from maieutic.v1.index_admin_service_pb2 import IndexVersion
from services.retrieval.catalog import Catalog, Listed, Recipe
from services.retrieval.errors import (
    BadEmbedderUrl,
    BadIndexUrl,
    IndexMismatch,
    VersionGone,
    VersionUnusable,
)
from services.retrieval.model import Splitter
from services.retrieval.ports import Embedder, VectorIndex
from services.retrieval.settings import RetrievalSettings
from services.runtime.errors import ServiceError

LOG = logging.getLogger(__name__)

TRUSTED_SECONDS = 0.5
"""How long a process goes by what it knows of the pointer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Openers:
    """How the parts of a version are opened; raise what the adapters raise."""

    embedder: Callable[[str], AbstractAsyncContextManager[Embedder]]
    """By its URL."""
    index: Callable[[str, Embedder], AbstractAsyncContextManager[VectorIndex]]
    """By the name of its space, for the embedder's vectors."""
    erase: Callable[[str], None]
    """Removes what an empty, closed index leaves behind, by the name of its space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """All that a version's searches and its indexing need: never mixed with another's."""

    version_id: str
    splitter: Splitter
    embedder: Embedder
    index: VectorIndex


@dataclass(slots=True, kw_only=True)
class _Held:
    """An open version, and how many work with it."""

    opened: Opened
    closing: AsyncExitStack
    users: int = 0
    ending: asyncio.Task[None] | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Known:
    """What the archive said, and when it was asked."""

    versions: Sequence[Listed] = field(default=())
    asked: float = float("-inf")


class Versions:
    """Opens versions when they are first used, and closes those that are dropped once unused."""

    def __init__(self, catalog: Catalog, openers: Openers, stack: AsyncExitStack) -> None:
        """Keep what is opened in the *stack*; `open` is the way to make one."""
        self._catalog = catalog
        self._openers = openers
        self._stack = stack
        self._known = _Known()
        self._looking = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._loading = asyncio.Lock()
        # By space: a version that was dropped and built again is another one.
        self._held: dict[str, _Held] = {}
        self._leaving: dict[str, _Held] = {}
        self._embedders: dict[str, Embedder] = {}
        self.settings: Recipe
        """The version that the settings describe."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, catalog: Catalog, openers: Openers, settings: RetrievalSettings
    ) -> AsyncIterator[Self]:
        """Keep versions open during the block; that of the *settings* is used if there is none.

        Raises BadEmbedderUrl.
        """
        async with AsyncExitStack() as stack:
            self = cls(catalog, openers, stack)
            embedder = await self.embedder(settings.embedder)
            self.settings = Recipe(
                embedder_url=settings.embedder,
                embedder=embedder.name,
                dimension=embedder.dimension,
                chunk_characters=settings.chunk_characters,
                chunk_overlap=settings.chunk_overlap,
            )
            try:
                yield self
            finally:
                for held in (*self._held.values(), *self._leaving.values()):
                    await held.closing.aclose()

    async def embedder(self, url: str) -> Embedder:
        """Return the embedder of the URL, which stays open; raises BadEmbedderUrl."""
        async with self._loading:
            if url not in self._embedders:
                opening = self._openers.embedder(url)
                self._embedders[url] = await self._stack.enter_async_context(opening)
            return self._embedders[url]

    @asynccontextmanager
    async def current(self) -> AsyncIterator[Opened]:
        """Hold the version that is searched during the block, also if another one is meanwhile."""
        async with self.using(await self.current_id()) as opened:
            yield opened

    async def current_id(self) -> str:
        """Return the id of the version that is searched, as it was half a second ago at most."""
        (current,) = (one for one in await self._versions() if one.state.current)
        return current.state.version_id

    @asynccontextmanager
    async def using(self, version_id: str) -> AsyncIterator[Opened]:
        """Hold a version open during the block; raises VersionGone and VersionUnusable."""
        listed = await self._find(version_id)
        held = await self._holding(listed)
        held.users += 1
        try:
            yield held.opened
        finally:
            held.users -= 1
            await self._close_unused(listed.space)

    @asynccontextmanager
    async def emptying(self, dropped: Listed) -> AsyncIterator[VectorIndex]:
        """Open the index of a dropped version alone; what is left of it then goes, too.

        Waits for what works with it here, and for other processes to see that it is dropped.
        """
        await self._versions(fresh=True)
        if held := self._leaving.get(dropped.space):
            await held.closed.wait()
        await asyncio.sleep(2 * TRUSTED_SECONDS)
        held = await self._open(dropped)
        async with held.closing:
            yield held.opened.index
        await asyncio.to_thread(self._openers.erase, dropped.space)

    @asynccontextmanager
    async def filling(self, recipe: Recipe, space: str) -> AsyncIterator[VectorIndex]:
        """Open an index that is no version's yet; its files go if the block fails.

        Raises VersionUnusable.
        """
        state = IndexVersion(version_id=recipe.version_id)
        held = await self._open(Listed(recipe=recipe, space=space, state=state))
        try:
            async with held.closing:
                yield held.opened.index
        except BaseException:
            await asyncio.to_thread(self._openers.erase, space)
            raise

    async def _versions(self, *, fresh: bool = False) -> Sequence[Listed]:
        loop = asyncio.get_running_loop()
        async with self._looking:
            if not fresh and loop.time() - self._known.asked < TRUSTED_SECONDS:
                return self._known.versions
            asked = loop.time()
            try:
                versions = await self._registered()
            except ServiceError as error:
                if fresh or not self._known.versions:
                    raise
                # Nobody can move the pointer where it cannot be asked for.
                LOG.warning("the index version is searched that was before: %s", error)
                versions = self._known.versions
            if not self._known.versions:
                self._tell_other(versions)
            self._known = _Known(versions, asked)
        await self._forget_others({one.space for one in versions if _is_live(one)})
        return versions

    def _tell_other(self, versions: Sequence[Listed]) -> None:
        wanted = self.settings.version_id
        for one in versions:
            if one.state.current and one.state.version_id != wanted:
                LOG.warning(
                    "the settings describe index version %s, but %s is searched: build and switch",
                    wanted,
                    one.state.version_id,
                )

    async def _registered(self) -> Sequence[Listed]:
        versions = await self._catalog.versions()
        if not versions:
            space = self.settings.embedder
            await self._catalog.register(self.settings, space=space, first_only=True)
            versions = await self._catalog.versions()
        return versions

    async def _forget_others(self, live: set[str]) -> None:
        for space in self._held.keys() - live:
            self._leaving[space] = self._held.pop(space)
            await self._close_unused(space)

    async def _close_unused(self, space: str) -> None:
        held = self._leaving.get(space)
        if held and not held.users:
            # Begun once, and ended whoever is cancelled meanwhile.
            held.ending = held.ending or asyncio.create_task(self._close(space, held))
            await asyncio.shield(held.ending)

    async def _close(self, space: str, held: _Held) -> None:
        await held.closing.aclose()
        del self._leaving[space]
        held.closed.set()

    async def _holding(self, listed: Listed) -> _Held:
        async with self._opening:
            if listed.space not in self._held:
                self._held[listed.space] = await self._open(listed)
            return self._held[listed.space]

    async def _find(self, version_id: str) -> Listed:
        for fresh in (False, True):
            for one in await self._versions(fresh=fresh):
                if one.state.version_id == version_id and _is_live(one):
                    return one
        raise VersionGone(version_id)

    async def _open(self, listed: Listed) -> _Held:
        version_id, recipe = listed.state.version_id, listed.recipe
        async with AsyncExitStack() as stack:
            try:
                embedder = await self.embedder(recipe.embedder_url)
                if (embedder.name, embedder.dimension) != (recipe.embedder, recipe.dimension):
                    raise VersionUnusable(version_id, f"{recipe.embedder_url} is another model")
                opening = self._openers.index(listed.space, embedder)
                index = await stack.enter_async_context(opening)
            except (BadEmbedderUrl, BadIndexUrl, IndexMismatch) as error:
                raise VersionUnusable(version_id, str(error)) from error
            opened = Opened(
                version_id=version_id,
                splitter=recipe.splitter(),
                embedder=embedder,
                index=index,
            )
            return _Held(opened=opened, closing=stack.pop_all())


def _is_live(listed: Listed) -> bool:
    return not listed.state.dropping
