"""The retrieval service with a small archive behind it, called over gRPC as its callers do."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc

from maieutic.v1 import document_admin_service_pb2 as admin_pb, document_service_pb2 as pb
from maieutic.v1.document_admin_service_pb2_grpc import DocumentAdminServiceStub
from maieutic.v1.document_service_pb2_grpc import DocumentServiceStub
from services.retrieval.main import retrieval_service
from services.retrieval.ports import Embedder, Vectors
from services.retrieval.settings import (
    ExpiryOptions,
    IngestOptions,
    LimitOptions,
    PineconeOptions,
    RetrievalSettings,
)
from services.runtime.channel import open_channel
from services.runtime.errors import ServiceError, from_rpc
from services.runtime.identity import acting_for
from services.runtime.keyring import KeyRing
from services.runtime.memory import MemoryBus
from services.runtime.server import ServerOptions
from services.runtime.topology import maieutic_topology
from tests.retrieval.archives import HeldArchive, held_archive, serving_archive

CALL_SECONDS = 30.0
BRISK = IngestOptions(lease=2.0, pause=0.1, sweep_interval=0.1, drain=0.5)
"""Clocks that run fast enough for tests."""


@dataclass
class CountingEmbedder:
    """Another embedder, and the texts that it was given."""

    inner: Embedder
    texts: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def dimension(self) -> int:
        return self.inner.dimension

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        self.texts.extend(texts)
        return await self.inner.embed(texts, query=query)


class User:
    """Calls the service for one user of one tenant."""

    def __init__(self, channel: grpc.aio.Channel, tenant: str, user: str) -> None:
        self._stub = DocumentServiceStub(channel)
        self._admin = DocumentAdminServiceStub(channel)
        self._tenant, self._user = tenant, user

    async def add(
        self,
        content: str | bytes,
        *,
        name: str = "a text",
        form: pb.DocumentFormat.ValueType = pb.DOCUMENT_FORMAT_TEXT,
        request_id: str = "",
        accept_only: bool = False,
    ) -> pb.AddDocumentResponse:
        request = pb.AddDocumentRequest(
            request_id=request_id or uuid4().hex,
            name=name,
            format=form,
            content=content.encode() if isinstance(content, str) else content,
            accept_only=accept_only,
        )
        with self._acting():
            return await self._stub.AddDocument(request, timeout=CALL_SECONDS)

    async def replace(
        self,
        document_id: str,
        content: str,
        *,
        form: pb.DocumentFormat.ValueType = pb.DOCUMENT_FORMAT_TEXT,
        request_id: str = "",
        accept_only: bool = False,
    ) -> pb.ReplaceDocumentResponse:
        request = pb.ReplaceDocumentRequest(
            request_id=request_id or uuid4().hex,
            document_id=document_id,
            format=form,
            content=content.encode(),
            accept_only=accept_only,
        )
        with self._acting():
            return await self._stub.ReplaceDocument(request, timeout=CALL_SECONDS)

    async def clean_up(self, *, dry_run: bool = False) -> admin_pb.CleanUpDocumentsResponse:
        with self._acting():
            request = admin_pb.CleanUpDocumentsRequest(dry_run=dry_run)
            return await self._admin.CleanUpDocuments(request)

    async def totals(self) -> admin_pb.DocumentTotals:
        with self._acting():
            request = admin_pb.GetDocumentTotalsRequest()
            return (await self._admin.GetDocumentTotals(request)).totals

    async def check(self, *, repair: bool = False) -> admin_pb.CheckDocumentsResponse:
        with self._acting():
            request = admin_pb.CheckDocumentsRequest(repair=repair)
            return await self._admin.CheckDocuments(request, timeout=CALL_SECONDS)

    async def upload(self, *requests: pb.UploadDocumentRequest) -> list[pb.UploadDocumentResponse]:
        """Return all that is answered to these messages."""
        return await self.stream_upload(iter(requests))

    async def stream_upload(
        self, requests: Iterator[pb.UploadDocumentRequest]
    ) -> list[pb.UploadDocumentResponse]:
        """Return all that is answered to these messages, which are sent as they are asked for."""
        with self._acting():
            call = self._stub.UploadDocument(requests, timeout=CALL_SECONDS)
            return [response async for response in call]

    async def watch(self, document_id: str) -> list[pb.Document]:
        """Return all that is told until the document is settled."""
        with self._acting():
            request = pb.WatchDocumentRequest(document_id=document_id)
            call = self._stub.WatchDocument(request, timeout=CALL_SECONDS)
            return [response.document async for response in call]

    async def usage(self, document_id: str) -> pb.DocumentUsage:
        with self._acting():
            request = pb.GetDocumentRequest(document_id=document_id)
            return (await self._stub.GetDocument(request)).usage

    async def get(self, document_id: str) -> pb.Document:
        with self._acting():
            request = pb.GetDocumentRequest(document_id=document_id)
            return (await self._stub.GetDocument(request)).document

    async def page(
        self, size: int = 0, token: str = "", *, collection: str = "", document_set_id: str = ""
    ) -> pb.ListDocumentsResponse:
        with self._acting():
            request = pb.ListDocumentsRequest(
                page_size=size,
                page_token=token,
                collection=collection,
                document_set_id=document_set_id,
            )
            return await self._stub.ListDocuments(request)

    async def delete(self, document_id: str, *, request_id: str = "") -> None:
        with self._acting():
            request = pb.DeleteDocumentRequest(
                document_id=document_id, request_id=request_id or uuid4().hex
            )
            await self._stub.DeleteDocument(request)

    async def make_set(self, *document_ids: str, request_id: str = "") -> str:
        request = pb.CreateDocumentSetRequest(
            request_id=request_id or uuid4().hex, document_ids=document_ids
        )
        with self._acting():
            return (await self._stub.CreateDocumentSet(request)).document_set_id

    async def attach(
        self, collection: str, *document_ids: str, request_id: str = ""
    ) -> pb.AttachDocumentsResponse:
        request = pb.AttachDocumentsRequest(
            request_id=request_id or uuid4().hex, collection=collection, document_ids=document_ids
        )
        with self._acting():
            return await self._stub.AttachDocuments(request)

    async def detach(
        self,
        collection: str = "",
        *document_ids: str,
        document_set_id: str = "",
        request_id: str = "",
    ) -> pb.DetachDocumentsResponse:
        request = pb.DetachDocumentsRequest(
            request_id=request_id or uuid4().hex,
            collection=collection,
            document_set_id=document_set_id,
            document_ids=document_ids,
        )
        with self._acting():
            return await self._stub.DetachDocuments(request)

    async def look(self, request: pb.SearchDocumentsRequest) -> pb.SearchDocumentsResponse:
        with self._acting():
            return await self._stub.SearchDocuments(request, timeout=CALL_SECONDS)

    async def search(
        self, query: str, *, document_ids: Sequence[str] = (), limit: int = 0, **others: Any
    ) -> list[pb.Passage]:
        with self._acting():
            request = pb.SearchDocumentsRequest(
                query=query, document_ids=document_ids, limit=limit, **others
            )
            response = await self._stub.SearchDocuments(request, timeout=CALL_SECONDS)
        return list(response.passages)

    @contextmanager
    def _acting(self) -> Iterator[None]:
        """Sign for the user; what the service refuses is raised as its domain error."""
        try:
            with acting_for(self._tenant, self._user):
                yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """A running service."""

    channel: grpc.aio.Channel
    archive: HeldArchive
    bus: MemoryBus

    def user(self, user: str = "ana", *, tenant: str = "acme") -> User:
        return User(self.channel, tenant, user)


@asynccontextmanager
async def running_retrieval(
    folder: Path,
    *,
    ingest: IngestOptions = BRISK,
    limits: LimitOptions | None = None,
    expiry: ExpiryOptions | None = None,
    pinecone: PineconeOptions | None = None,
    **parts: Any,
) -> AsyncIterator[Retrieval]:
    """Run the service on a folder of vectors, or on the index "passages" at Pinecone.

    The archive is a file in the folder. *parts* are further arguments of the service's root.
    """
    keys = KeyRing.generate(["gateway", "retrieval"])
    async with AsyncExitStack() as stack:
        archive = await stack.enter_async_context(held_archive(folder))
        archive_server = await stack.enter_async_context(
            serving_archive(archive, "127.0.0.1:0", verifier=keys.verifier())
        )
        bus = await stack.enter_async_context(MemoryBus(maieutic_topology()))
        settings = RetrievalSettings(
            server=ServerOptions(listen="127.0.0.1:0"),
            archive_address=archive_server.address,
            index_url="pinecone://passages" if pinecone else f"local://{folder}",
            pinecone=pinecone or PineconeOptions(),
            ingest=ingest,
            limits=limits or LimitOptions(),
            expiry=expiry or ExpiryOptions(),
        )
        running = await stack.enter_async_context(
            retrieval_service(
                settings,
                bus=bus,
                signer=keys.signer("retrieval"),
                verifier=keys.verifier(),
                **parts,
            )
        )
        channel = await stack.enter_async_context(
            open_channel(running.address, service="retrieval", signer=keys.signer("gateway"))
        )
        yield Retrieval(channel=channel, archive=archive, bus=bus)


async def refusal_of(call: Any) -> ServiceError:
    """Return what the call is refused with; fails if it is not."""
    try:
        answer = await call
    except ServiceError as error:
        return error
    raise AssertionError(f"not refused: {answer}")
