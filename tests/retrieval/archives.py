"""The archive that keeps the documents: the real one, in SQLite, which tests may hold up."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import add_ArchiveServiceServicer_to_server
from maieutic.archive.v1.index_registry_service_pb2_grpc import (
    add_IndexRegistryServiceServicer_to_server,
)
from services.persistence.adapters.archive import SqlArchive
from services.persistence.adapters.migrate import migrate
from services.persistence.adapters.sqlite import sqlite_database
from services.persistence.index_rpc import IndexCalls
from services.persistence.rpc import ArchiveServicer
from services.runtime.identity import Verifier
from services.runtime.server import MEBIBYTE, RunningServer, ServerOptions, serving
from tests.contracts.archives import ArchiveHarness

Context = Any
TABLES = ("documents", "document_references", "document_contents")


class HeldArchive(ArchiveServicer):
    """Counts its calls, and lets documents be finished only while it is told to."""

    def __init__(self, harness: ArchiveHarness) -> None:
        super().__init__(harness.archive)
        self.harness = harness
        self.calls: Counter[str] = Counter()
        self.finishing = asyncio.Event()
        """Set once a document is to be finished."""
        self.may_finish = asyncio.Event()
        """Cleared, documents stay unfinished: their calls hang."""
        self.may_finish.set()
        self.held_tenant = ""
        """Whose documents cannot be listed yet: the call hangs."""
        self.may_list = asyncio.Event()
        """Set, it goes on."""
        self.listing = asyncio.Event()
        """Set once that call hangs."""

    async def GetRegisteredDocument(
        self, request: pb.GetRegisteredDocumentRequest, context: Context
    ) -> pb.GetRegisteredDocumentResponse:
        self.calls["get"] += 1
        return await super().GetRegisteredDocument(request, context)

    async def ListIndexedDocuments(
        self, request: pb.ListIndexedDocumentsRequest, context: Context
    ) -> pb.ListIndexedDocumentsResponse:
        if request.tenant == self.held_tenant:
            self.listing.set()
            await self.may_list.wait()
        return await super().ListIndexedDocuments(request, context)

    async def FinishDocument(
        self, request: pb.FinishDocumentRequest, context: Context
    ) -> pb.FinishDocumentResponse:
        self.finishing.set()
        await self.may_finish.wait()
        return await super().FinishDocument(request, context)

    async def states(self) -> dict[str, str]:
        """Return each document's state."""
        rows = await self.harness.rows("SELECT document_id, state FROM documents")
        return dict(rows)

    async def is_empty(self) -> bool:
        """Whether nothing of any document is left."""
        rows = [await self.harness.rows(f"SELECT * FROM {table}") for table in TABLES]  # noqa: S608 - the test's own
        return not any(rows)


@asynccontextmanager
async def held_archive(folder: Path) -> AsyncIterator[HeldArchive]:
    """Open an archive in the folder, made if it is not there."""
    url = f"sqlite://{folder}/archive.sqlite"
    await migrate(url)
    async with sqlite_database(url) as database:
        yield HeldArchive(ArchiveHarness(archive=SqlArchive(database), database=database))


@asynccontextmanager
async def serving_archive(
    archive: HeldArchive, listen: str, *, verifier: Verifier
) -> AsyncIterator[RunningServer]:
    """Serve the archive as its service does."""

    def register(server: grpc.aio.Server) -> Sequence[str]:
        add_ArchiveServiceServicer_to_server(archive, server)
        add_IndexRegistryServiceServicer_to_server(IndexCalls(archive.harness.archive), server)
        return ["maieutic.archive.v1.ArchiveService"]

    options = ServerOptions(listen=listen, max_message_bytes=16 * MEBIBYTE, grace=0.5)
    async with serving(options, register, verifier=verifier) as running:
        yield running
