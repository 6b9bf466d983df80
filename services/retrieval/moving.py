"""Index versions as files: written from one index, and taken into another one."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from maieutic.v1 import index_admin_service_pb2 as pb
from maieutic.v1.index_file_pb2 import IndexFileChunk, IndexFileDocument, IndexFileRecord
from services.retrieval.catalog import Catalog, Listed, Recipe
from services.retrieval.checking import Inventory
from services.retrieval.errors import BadIndexFile, VersionUnusable
from services.retrieval.keeping import Keeper
from services.retrieval.model import Chunk, chunk_id
from services.retrieval.ports import VectorIndex
from services.retrieval.version_file import FileReader, FileWriter, vector_of
from services.retrieval.versions import Opened, Versions
from services.runtime.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
)

CHUNKS_AT_A_TIME = 50
PART_BYTES = 256 * 1024
PART_SECONDS = 30.0


class Exporter:
    """Writes versions; raises what the archive and the index raise."""

    def __init__(self, *, catalog: Catalog, versions: Versions, inventory: Inventory) -> None:
        self._catalog = catalog
        self._versions = versions
        self._inventory = inventory

    async def file(self, version_id: str) -> AsyncGenerator[pb.ExportIndexVersionResponse, None]:
        """Yield the version's file; raises NotFound."""
        listed = await _listed(self._catalog, version_id)
        if listed is None:
            raise NotFound("index version", version_id)
        progress = pb.ExportIndexVersionResponse(documents_total=listed.state.documents)
        async with (
            self._versions.using(version_id) as opened,
            aclosing(self._records(listed, opened, progress)) as records,
        ):
            async for record in records:
                for start in range(0, len(record), PART_BYTES):
                    progress.content = record[start : start + PART_BYTES]
                    yield progress

    async def _records(
        self, listed: Listed, opened: Opened, progress: pb.ExportIndexVersionResponse
    ) -> AsyncGenerator[bytes, None]:
        writer = FileWriter()
        yield writer.header(listed.state)
        async for tenant in self._inventory.tenants():
            documents = await self._inventory.documents(tenant)
            held = await opened.index.contents(tenant)
            for document_id, document in documents.items():
                if document.changing or document_id not in held:
                    continue
                progress.documents += 1
                yield writer.document(tenant, document.content_hash)
                for some in _parts(sorted(held[document_id])):
                    # What was removed meanwhile is not there to be read, and is not missed.
                    yield writer.chunks(await opened.index.read(tenant, some))
        yield writer.trailer()


class Importer:
    """Takes versions from files; raises what the archive and the index raise.

    The vectors are put where no version has its own yet. Then the version is registered with
    them, and built as any other: its documents find their chunks there.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        versions: Versions,
        inventory: Inventory,
        keeper: Keeper,
        most_bytes: int,
    ) -> None:
        self._catalog = catalog
        self._versions = versions
        self._inventory = inventory
        self._keeper = keeper
        self._most_bytes = most_bytes
        self._turn = asyncio.Lock()

    async def version(
        self, parts: AsyncIterator[bytes]
    ) -> AsyncGenerator[pb.ImportIndexVersionResponse, None]:
        """Take the file, and yield how far that is; the last one has the version's id.

        Raises BadIndexFile, InvalidArgument, FailedPrecondition if there is such a version,
        ResourceExhausted and DeadlineExceeded.
        """
        if self._turn.locked():
            raise ResourceExhausted("another index version is being imported", retry_after=5.0)
        async with self._turn:
            with tempfile.TemporaryFile() as file:
                await _receive(parts, file, self._most_bytes)
                recipe = await self._checked(file)
                async with aclosing(self._taken(recipe, file)) as progress:
                    async for one in progress:
                        yield one

    async def _checked(self, file: BinaryIO) -> Recipe:
        """Read the whole file, and return whose vectors it has."""
        records = _records(file)
        version = (await anext(records)).header.version
        async for _ in records:
            pass
        own = self._versions.settings
        same = version.embedder == own.embedder
        recipe = await self._keeper.recipe(
            embedder_url=own.embedder_url if same else version.embedder_url,
            chunk_characters=version.chunk_characters,
            chunk_overlap=version.chunk_overlap,
        )
        if recipe.version_id != version.version_id:
            raise BadIndexFile(
                f"has vectors of {version.embedder}, dimension {version.dimension}, and chunks of"
                f" {version.chunk_characters}/{version.chunk_overlap} characters, version"
                f" {version.version_id}: here that is {recipe.embedder}, dimension"
                f" {recipe.dimension}, version {recipe.version_id}"
            )
        return recipe

    async def _taken(
        self, recipe: Recipe, file: BinaryIO
    ) -> AsyncGenerator[pb.ImportIndexVersionResponse, None]:
        await self._versions.current_id()
        if await _listed(self._catalog, recipe.version_id):
            raise _there(recipe.version_id)
        progress, space = pb.ImportIndexVersionResponse(), recipe.new_space()
        try:
            async with self._versions.filling(recipe, space) as index:
                filling = _Filling(self._inventory, recipe.embedder, index, progress)
                async with aclosing(filling.steps(file)) as steps:
                    async for _ in steps:
                        yield progress
        except VersionUnusable as error:
            raise BadIndexFile(error.message) from error
        await self._catalog.register(recipe, space=space)
        listed = await _listed(self._catalog, recipe.version_id)
        if listed is None or listed.space != space:
            raise _there(recipe.version_id)
        await self._forget_removed(recipe.version_id, filling.linked)
        progress.version_id = recipe.version_id
        yield progress

    async def _forget_removed(self, version_id: str, linked: Sequence[tuple[str, str]]) -> None:
        """Remove what was removed from the other versions before this one was known."""
        async with self._versions.using(version_id) as opened:
            for tenant in {tenant for tenant, _ in linked}:
                there = await self._inventory.documents(tenant)
                for owner, document_id in linked:
                    if owner == tenant and document_id not in there:
                        await opened.index.unlink(tenant, document_id)


@dataclass(slots=True)
class _Filling:
    """Puts a checked file into an empty index."""

    inventory: Inventory
    embedder: str
    index: VectorIndex
    progress: pb.ImportIndexVersionResponse
    linked: list[tuple[str, str]] = field(default_factory=list)
    _begun: list[tuple[str, str]] = field(default_factory=list)
    _known: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    _chunk_ids: list[str] = field(default_factory=list)

    async def steps(self, file: BinaryIO) -> AsyncGenerator[None, None]:
        """Yield after each document; what was stored is removed if that fails."""
        try:
            async for record in _records(file):
                if record.HasField("document"):
                    await self._end()
                    yield
                    await self._begin(record.document)
                elif record.HasField("chunks") and self._begun:
                    await self._store(record.chunks.chunks)
            await self._end()
        except BaseException:
            for tenant, document_id in (*self.linked, *self._begun):
                await self.index.unlink(tenant, document_id)
            raise

    async def _begin(self, document: IndexFileDocument) -> None:
        tenant = document.tenant
        if tenant not in self._known:
            self._known[tenant] = await self._contents(tenant)
        ids = self._known[tenant].get(document.content_hash, [])
        self._begun = [(tenant, document_id) for document_id in ids]
        self.progress.documents_skipped += not ids

    async def _contents(self, tenant: str) -> dict[str, list[str]]:
        """Return the tenant's documents by the hash of their contents."""
        found: dict[str, list[str]] = {}
        for document_id, document in (await self.inventory.documents(tenant)).items():
            if not document.changing:
                found.setdefault(document.content_hash, []).append(document_id)
        return found

    async def _store(self, stored: Sequence[IndexFileChunk]) -> None:
        chunks = [Chunk(id=chunk_id(self.embedder, one.text), text=one.text) for one in stored]
        if not chunks:
            return
        vectors = np.stack([vector_of(one.vector) for one in stored])
        await self.index.upsert(*self._begun[0], chunks, vectors)
        self._chunk_ids += [chunk.id for chunk in chunks]
        self.progress.chunks += len(chunks)

    async def _end(self) -> None:
        """Keep the chunks of the document that was begun; the build puts them into order."""
        for tenant, document_id in self._begun:
            if await self.index.link(tenant, document_id, self._chunk_ids):
                self.progress.documents += 1
            self.linked.append((tenant, document_id))
        self._begun, self._chunk_ids = [], []


async def _listed(catalog: Catalog, version_id: str) -> Listed | None:
    for one in await catalog.versions(counted=True):
        if one.state.version_id == version_id:
            return one
    return None


def _there(version_id: str) -> FailedPrecondition:
    message = f"index version {version_id} is there already: drop it first, or go on building it"
    return FailedPrecondition(message, reason="INDEX_VERSION_EXISTS")


async def _receive(parts: AsyncIterator[bytes], file: BinaryIO, most_bytes: int) -> None:
    size = 0
    try:
        while (part := await asyncio.wait_for(anext(parts, None), PART_SECONDS)) is not None:
            size += len(part)
            if size > most_bytes:
                raise BadIndexFile(f"is larger than {most_bytes} bytes, MAIEUTIC_IMPORT_BYTES")
            await asyncio.to_thread(file.write, part)
    except TimeoutError as error:
        raise DeadlineExceeded("the next part of the file did not come in time") from error
    except OSError as error:
        raise ResourceExhausted(f"the file cannot be kept here: {error.strerror}") from error


async def _records(file: BinaryIO) -> AsyncIterator[IndexFileRecord]:
    """Read the file from its beginning, beside other work."""
    file.seek(0)
    records = FileReader(file).records()
    while (record := await asyncio.to_thread(next, records, None)) is not None:
        yield record


def _parts(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), CHUNKS_AT_A_TIME):
        yield items[start : start + CHUNKS_AT_A_TIME]
