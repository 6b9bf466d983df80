"""A small archive that keeps documents, too: in dictionaries, and served over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import (
    ArchiveServiceServicer,
    add_ArchiveServiceServicer_to_server,
)
from maieutic.v1.document_service_pb2 import Document, DocumentState
from services.runtime.errors import AlreadyExists, NotFound
from services.runtime.identity import Verifier
from services.runtime.server import RunningServer, ServerOptions, serving
from tests.fakes.cold_archive import ColdArchive

Context = Any


class DocumentArchive(ColdArchive):
    """Documents, their bytes, and per owner those that it refers to, the newest last."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[tuple[str, str], Document] = {}
        self.contents: dict[tuple[str, str], bytes] = {}
        self.owned: dict[tuple[str, str], list[str]] = {}
        self.requests: dict[tuple[str, str, str], bytes] = {}
        self.finishing = asyncio.Event()
        """Set once a document is to be finished."""
        self.may_finish = asyncio.Event()
        """Cleared, documents stay unfinished: their calls hang."""
        self.may_finish.set()
        self.calls: list[str] = []

    async def RegisterDocument(
        self, request: pb.RegisterDocumentRequest, context: Context
    ) -> pb.RegisterDocumentResponse:
        self.calls.append("register")
        owner = request.tenant, request.user_id
        known = self.requests.setdefault((*owner, request.request_id), request.request_hash)
        if known != request.request_hash:
            raise AlreadyExists("the request id was used for another request")
        key = request.tenant, request.document.document_id
        if key not in self.documents:
            document = Document(state=DocumentState.DOCUMENT_STATE_PENDING)
            document.create_time.GetCurrentTime()
            document.MergeFrom(request.document)
            self.documents[key], self.contents[key] = document, request.content
        owned = self.owned.setdefault(owner, [])
        if key[1] not in owned:
            owned.append(key[1])
        return pb.RegisterDocumentResponse(document=self.documents[key])

    async def FinishDocument(
        self, request: pb.FinishDocumentRequest, context: Context
    ) -> pb.FinishDocumentResponse:
        self.calls.append("finish")
        self.finishing.set()
        await self.may_finish.wait()
        document = self.documents[request.tenant, request.document_id]
        document.state = DocumentState.DOCUMENT_STATE_READY
        document.chunk_count = request.chunk_count
        return pb.FinishDocumentResponse(document=document)

    async def GetRegisteredDocument(
        self, request: pb.GetRegisteredDocumentRequest, context: Context
    ) -> pb.GetRegisteredDocumentResponse:
        self.calls.append("get")
        if request.document_id not in self.owned.get((request.tenant, request.user_id), []):
            raise NotFound("document", request.document_id)
        return pb.GetRegisteredDocumentResponse(
            document=self.documents[request.tenant, request.document_id]
        )

    async def ListRegisteredDocuments(
        self, request: pb.ListRegisteredDocumentsRequest, context: Context
    ) -> pb.ListRegisteredDocumentsResponse:
        self.calls.append("list")
        owned = self.owned.get((request.tenant, request.user_id), [])
        documents = sorted((self.documents[request.tenant, one] for one in owned), key=_age)
        if request.HasField("before_create_time"):
            before = Document(
                create_time=request.before_create_time, document_id=request.before_document_id
            )
            documents = [one for one in documents if _age(one) < _age(before)]
        return pb.ListRegisteredDocumentsResponse(documents=documents[::-1][: request.limit])

    async def ReleaseDocument(
        self, request: pb.ReleaseDocumentRequest, context: Context
    ) -> pb.ReleaseDocumentResponse:
        self.calls.append("release")
        owned = self.owned.get((request.tenant, request.user_id), [])
        if request.document_id in owned:
            owned.remove(request.document_id)
        last = not any(
            request.document_id in owned
            for (tenant, _), owned in self.owned.items()
            if tenant == request.tenant
        )
        if last:
            self.documents.pop((request.tenant, request.document_id), None)
            self.contents.pop((request.tenant, request.document_id), None)
        return pb.ReleaseDocumentResponse(last=last)


def _age(document: Document) -> tuple[int, str]:
    return document.create_time.ToNanoseconds(), document.document_id


@asynccontextmanager
async def serving_archive(
    archive: ArchiveServiceServicer, listen: str, *, verifier: Verifier
) -> AsyncIterator[RunningServer]:
    """Serve this archive, or another one, as the archive is served."""

    def register(server: grpc.aio.Server) -> Sequence[str]:
        add_ArchiveServiceServicer_to_server(archive, server)
        return ["maieutic.archive.v1.ArchiveService"]

    async with serving(ServerOptions(listen=listen), register, verifier=verifier) as running:
        yield running
