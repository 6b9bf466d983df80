"""A small working document service: it keeps texts and searches them by shared words."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc

from maieutic.v1 import (
    document_admin_service_pb2 as admin_pb,
    document_service_pb2 as pb,
    index_admin_service_pb2 as index_pb,
)
from maieutic.v1.document_admin_service_pb2_grpc import (
    DocumentAdminServiceServicer,
    add_DocumentAdminServiceServicer_to_server,
)
from maieutic.v1.document_service_pb2_grpc import (
    DocumentServiceServicer,
    add_DocumentServiceServicer_to_server,
)
from maieutic.v1.index_admin_service_pb2_grpc import (
    IndexAdminServiceServicer,
    add_IndexAdminServiceServicer_to_server,
)
from services.runtime.errors import InvalidArgument, NotFound, ServiceError, Unavailable
from tests.fakes.conversations import Context, Owner, caller, page_of


@dataclass(kw_only=True)
class Library:
    """What the service keeps."""

    owner: Callable[[], Owner] = caller
    texts: dict[tuple[Owner, str], tuple[pb.Document, str]] = field(default_factory=dict)
    collections: dict[str, set[str]] = field(default_factory=dict)
    faults: list[admin_pb.DocumentFault] = field(default_factory=list)
    """That a check finds."""
    expired: list[admin_pb.ExpiredDocument] = field(default_factory=list)
    """That a cleanup finds."""
    searches_left: float = float("inf")
    """After so many, searches are refused for the moment."""
    beyond: asyncio.Event | None = None
    """Those are refused once this is set."""
    held: int = 0
    """Searches that wait for that."""

    no_uploads: ServiceError | None = None
    """Refuses files after their first part."""

    async def refuse(self) -> None:
        self.held += 1
        try:
            if self.beyond is not None:
                await self.beyond.wait()
        finally:
            self.held -= 1
        raise Unavailable("the search is away")

    def own(self) -> list[tuple[pb.Document, str]]:
        return [entry for (owner, _), entry in self.texts.items() if owner == self.owner()]

    def get(self, document_id: str) -> tuple[pb.Document, str]:
        entry = self.texts.get((self.owner(), document_id))
        if entry is None:
            raise NotFound("document", document_id)
        return entry


class FakeDocuments(DocumentServiceServicer):
    def __init__(self, library: Library) -> None:
        self._library = library

    async def AddDocument(
        self, request: pb.AddDocumentRequest, context: Context
    ) -> pb.AddDocumentResponse:
        try:
            text = request.content.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument("content", "must be UTF-8 text") from error
        digest = hashlib.sha256(request.content).hexdigest()
        key = (self._library.owner(), digest[:48])
        new = key not in self._library.texts
        document = pb.Document(
            document_id=key[1],
            name=request.name,
            format=request.format,
            state=pb.DOCUMENT_STATE_READY,
            size=len(request.content),
            chunk_count=1,
            indexed_version=1,
            content_hash=digest,
        )
        document.create_time.GetCurrentTime()
        self._library.texts.setdefault(key, (document, text))
        return pb.AddDocumentResponse(
            document=document, chunks_embedded=int(new), chunks_reused=int(not new)
        )

    async def UploadDocument(
        self, request_iterator: AsyncIterator[pb.UploadDocumentRequest], context: Context
    ) -> AsyncIterator[pb.UploadDocumentResponse]:
        header = (await anext(request_iterator)).header
        if self._library.no_uploads is not None:
            raise self._library.no_uploads
        content = b"".join([part.content async for part in request_iterator])
        request = pb.AddDocumentRequest(name=header.name, format=header.format, content=content)
        added = await self.AddDocument(request, context)
        yield pb.UploadDocumentResponse(document=added.document)

    async def ReplaceDocument(
        self, request: pb.ReplaceDocumentRequest, context: Context
    ) -> pb.ReplaceDocumentResponse:
        document, _ = self._library.get(request.document_id)
        document.version += 1
        key = self._library.owner(), request.document_id
        self._library.texts[key] = document, request.content.decode()
        return pb.ReplaceDocumentResponse(document=document, chunks_embedded=1)

    async def WatchDocument(
        self, request: pb.WatchDocumentRequest, context: Context
    ) -> AsyncIterator[pb.WatchDocumentResponse]:
        yield pb.WatchDocumentResponse(document=self._library.get(request.document_id)[0])

    async def GetDocument(
        self, request: pb.GetDocumentRequest, context: Context
    ) -> pb.GetDocumentResponse:
        return pb.GetDocumentResponse(document=self._library.get(request.document_id)[0])

    async def ListDocuments(
        self, request: pb.ListDocumentsRequest, context: Context
    ) -> pb.ListDocumentsResponse:
        held = self._library.collections.get(request.collection, set())
        own = [
            document
            for document, _ in self._library.own()
            if not request.collection or document.document_id in held
        ][::-1]
        page, token = page_of(own, request.page_size, request.page_token)
        return pb.ListDocumentsResponse(documents=page, next_page_token=token)

    async def DeleteDocument(
        self, request: pb.DeleteDocumentRequest, context: Context
    ) -> pb.DeleteDocumentResponse:
        self._library.texts.pop((self._library.owner(), request.document_id), None)
        return pb.DeleteDocumentResponse()

    async def CreateDocumentSet(
        self, request: pb.CreateDocumentSetRequest, context: Context
    ) -> pb.CreateDocumentSetResponse:
        for document_id in request.document_ids:
            self._library.get(document_id)
        return pb.CreateDocumentSetResponse(document_set_id="s" * 24, version_token="d1")

    async def AttachDocuments(
        self, request: pb.AttachDocumentsRequest, context: Context
    ) -> pb.AttachDocumentsResponse:
        for document_id in request.document_ids:
            self._library.get(document_id)
        self._library.collections.setdefault(request.collection, set()).update(request.document_ids)
        return pb.AttachDocumentsResponse(version_token="d1")

    async def DetachDocuments(
        self, request: pb.DetachDocumentsRequest, context: Context
    ) -> pb.DetachDocumentsResponse:
        held = self._library.collections.get(request.collection, set())
        held.difference_update(request.document_ids)
        return pb.DetachDocumentsResponse(version_token="d1")

    async def SearchDocuments(
        self, request: pb.SearchDocumentsRequest, context: Context
    ) -> pb.SearchDocumentsResponse:
        self._library.searches_left -= 1
        if self._library.searches_left < 0:
            await self._library.refuse()
        wanted = set(request.query.lower().split())
        collections = [self._library.collections.get(name, set()) for name in request.collections]
        named = [*request.document_ids, *sorted(set().union(*collections))]
        searched = [self._library.get(id_) for id_ in named] if named else self._library.own()
        scored = [
            (len(wanted & set(text.lower().split())), document, text) for document, text in searched
        ]
        scored.sort(key=lambda entry: entry[0], reverse=True)
        passages = [
            pb.Passage(document_id=d.document_id, document_name=d.name, text=text, score=score)
            for score, d, text in scored
        ]
        return pb.SearchDocumentsResponse(passages=passages[: request.limit or 5])


class FakeDocumentAdmin(DocumentAdminServiceServicer):
    """Counts what there is, and finds what it is told to find."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def CheckDocuments(
        self, request: admin_pb.CheckDocumentsRequest, context: Context
    ) -> admin_pb.CheckDocumentsResponse:
        faults = list(self._library.faults)
        if request.repair:
            self._library.faults.clear()
        return admin_pb.CheckDocumentsResponse(
            documents=len(self._library.texts), faults=faults, fault_count=len(faults)
        )

    async def CleanUpDocuments(
        self, request: admin_pb.CleanUpDocumentsRequest, context: Context
    ) -> admin_pb.CleanUpDocumentsResponse:
        expired = list(self._library.expired)
        if not request.dry_run:
            self._library.expired.clear()
        return admin_pb.CleanUpDocumentsResponse(expired=expired, reference_count=len(expired))

    async def GetDocumentTotals(
        self, request: admin_pb.GetDocumentTotalsRequest, context: Context
    ) -> admin_pb.GetDocumentTotalsResponse:
        totals = admin_pb.DocumentTotals(documents=len(self._library.texts))
        return admin_pb.GetDocumentTotalsResponse(totals=totals)


class FakeIndexAdmin(IndexAdminServiceServicer):
    """Two versions, of which one can be searched at a time."""

    def __init__(self) -> None:
        self._versions = {
            id_: index_pb.IndexVersion(version_id=id_, embedder="words", dimension=4, documents=2)
            for id_ in ("0" * 16, "1" * 16)
        }
        self._versions["0" * 16].current = True

    async def ListIndexVersions(
        self, request: index_pb.ListIndexVersionsRequest, context: Context
    ) -> index_pb.ListIndexVersionsResponse:
        return index_pb.ListIndexVersionsResponse(versions=self._versions.values())

    async def BuildIndexVersion(
        self, request: index_pb.BuildIndexVersionRequest, context: Context
    ) -> AsyncIterator[index_pb.BuildIndexVersionResponse]:
        for done in range(3):
            version = index_pb.IndexVersion(
                version_id="1" * 16, documents=done, documents_total=2, building=done < 2
            )
            yield index_pb.BuildIndexVersionResponse(version=version)

    async def SwitchIndexVersion(
        self, request: index_pb.SwitchIndexVersionRequest, context: Context
    ) -> index_pb.SwitchIndexVersionResponse:
        for id_, version in self._versions.items():
            version.previous, version.current = version.current, id_ == request.version_id
        return index_pb.SwitchIndexVersionResponse()

    async def RollbackIndexVersion(
        self, request: index_pb.RollbackIndexVersionRequest, context: Context
    ) -> index_pb.RollbackIndexVersionResponse:
        (before,) = (id_ for id_, version in self._versions.items() if version.previous)
        await self.SwitchIndexVersion(
            index_pb.SwitchIndexVersionRequest(version_id=before), context
        )
        return index_pb.RollbackIndexVersionResponse(version_id=before)

    async def DropIndexVersion(
        self, request: index_pb.DropIndexVersionRequest, context: Context
    ) -> index_pb.DropIndexVersionResponse:
        self._versions.pop(request.version_id, None)
        return index_pb.DropIndexVersionResponse()

    async def ExportIndexVersion(
        self, request: index_pb.ExportIndexVersionRequest, context: Context
    ) -> AsyncIterator[index_pb.ExportIndexVersionResponse]:
        if request.version_id not in self._versions:
            raise NotFound("index version", request.version_id)
        for done, part in enumerate((b"a file of ", request.version_id.encode())):
            yield index_pb.ExportIndexVersionResponse(
                content=part, documents=done + 1, documents_total=2
            )

    async def ImportIndexVersion(
        self, request_iterator: AsyncIterator[index_pb.ImportIndexVersionRequest], context: Context
    ) -> AsyncIterator[index_pb.ImportIndexVersionResponse]:
        content = b"".join([request.content async for request in request_iterator])
        if not content.startswith(b"a file of "):
            raise InvalidArgument("content", "is no file of an index version")
        version_id = content.removeprefix(b"a file of ").decode()
        yield index_pb.ImportIndexVersionResponse(documents=1)
        yield index_pb.ImportIndexVersionResponse(
            version_id=version_id, documents=2, documents_skipped=1, chunks=3
        )


def register_documents(library: Library) -> Callable[[grpc.aio.Server], list[str]]:
    """Return what `serving` calls to add the service."""

    def register(server: grpc.aio.Server) -> list[str]:
        add_DocumentServiceServicer_to_server(FakeDocuments(library), server)
        add_DocumentAdminServiceServicer_to_server(FakeDocumentAdmin(library), server)
        add_IndexAdminServiceServicer_to_server(FakeIndexAdmin(), server)
        return [
            "maieutic.v1.DocumentService",
            "maieutic.v1.DocumentAdminService",
            "maieutic.v1.IndexAdminService",
        ]

    return register
