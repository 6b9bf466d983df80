"""The public services: each call goes to the service that owns the matter."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from maieutic.v1 import (
    admin_service_pb2 as admin,
    dead_letter_admin_service_pb2 as dead_letters,
    document_admin_service_pb2 as document_admin,
    document_service_pb2 as documents,
    index_admin_service_pb2 as indexes,
    session_service_pb2 as sessions,
)
from maieutic.v1.admin_service_pb2_grpc import AdminServiceServicer
from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceServicer
from maieutic.v1.document_admin_service_pb2_grpc import DocumentAdminServiceServicer
from maieutic.v1.document_service_pb2_grpc import DocumentServiceServicer
from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceServicer
from maieutic.v1.session_service_pb2_grpc import SessionServiceServicer
from services.gateway.relay import exchanged, once_found, relayed, require_documents

if TYPE_CHECKING:  # typing names of the generated stubs
    from maieutic.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceAsyncStub
    from maieutic.v1.document_admin_service_pb2_grpc import DocumentAdminServiceAsyncStub
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub
    from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceAsyncStub
    from maieutic.v1.session_service_pb2_grpc import SessionServiceAsyncStub

    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext


class Sessions(SessionServiceServicer):
    """Conversations, at the session service."""

    def __init__(
        self, service: "SessionServiceAsyncStub", documents: "DocumentServiceAsyncStub"
    ) -> None:
        self._service = service
        self._documents = documents

    async def CreateSession(
        self, request: sessions.CreateSessionRequest, context: Context
    ) -> sessions.CreateSessionResponse:
        """Create the session once its documents are known to exist for the caller."""
        search = require_documents(self._documents, request.document_ids, field="document_ids")
        async with once_found(search) as metadata:
            return await self._service.CreateSession(request, metadata=metadata)

    async def GetSession(
        self, request: sessions.GetSessionRequest, context: Context
    ) -> sessions.GetSessionResponse:
        """Pass on."""
        return await self._service.GetSession(request)

    async def GetOrCreateSession(
        self, request: sessions.GetOrCreateSessionRequest, context: Context
    ) -> sessions.GetOrCreateSessionResponse:
        """Return the standing session once its documents are known to exist for the caller."""
        await require_documents(self._documents, request.document_ids, field="document_ids")
        return await self._service.GetOrCreateSession(request)

    async def UpdateSession(
        self, request: sessions.UpdateSessionRequest, context: Context
    ) -> sessions.UpdateSessionResponse:
        """Change the session once its new documents are known to exist for the caller."""
        if "document_ids" not in request.update_mask.paths:
            return await self._service.UpdateSession(request)
        search = require_documents(self._documents, request.document_ids, field="document_ids")
        async with once_found(search) as metadata:
            return await self._service.UpdateSession(request, metadata=metadata)

    async def EndSession(
        self, request: sessions.EndSessionRequest, context: Context
    ) -> sessions.EndSessionResponse:
        """Pass on."""
        return await self._service.EndSession(request)

    async def TouchSession(
        self, request: sessions.TouchSessionRequest, context: Context
    ) -> sessions.TouchSessionResponse:
        """Pass on."""
        return await self._service.TouchSession(request)

    async def ListSessions(
        self, request: sessions.ListSessionsRequest, context: Context
    ) -> sessions.ListSessionsResponse:
        """Pass on."""
        return await self._service.ListSessions(request)

    async def DeleteSession(
        self, request: sessions.DeleteSessionRequest, context: Context
    ) -> sessions.DeleteSessionResponse:
        """Pass on."""
        return await self._service.DeleteSession(request)

    async def ListMessages(
        self, request: sessions.ListMessagesRequest, context: Context
    ) -> sessions.ListMessagesResponse:
        """Pass on."""
        return await self._service.ListMessages(request)

    async def AddNote(
        self, request: sessions.AddNoteRequest, context: Context
    ) -> sessions.AddNoteResponse:
        """Pass on."""
        return await self._service.AddNote(request)

    async def ListNotes(
        self, request: sessions.ListNotesRequest, context: Context
    ) -> sessions.ListNotesResponse:
        """Pass on."""
        return await self._service.ListNotes(request)

    async def DeleteNote(
        self, request: sessions.DeleteNoteRequest, context: Context
    ) -> sessions.DeleteNoteResponse:
        """Pass on."""
        return await self._service.DeleteNote(request)

    async def AddBookmark(
        self, request: sessions.AddBookmarkRequest, context: Context
    ) -> sessions.AddBookmarkResponse:
        """Pass on."""
        return await self._service.AddBookmark(request)

    async def ListBookmarks(
        self, request: sessions.ListBookmarksRequest, context: Context
    ) -> sessions.ListBookmarksResponse:
        """Pass on."""
        return await self._service.ListBookmarks(request)

    async def DeleteBookmark(
        self, request: sessions.DeleteBookmarkRequest, context: Context
    ) -> sessions.DeleteBookmarkResponse:
        """Pass on."""
        return await self._service.DeleteBookmark(request)

    async def BranchSession(
        self, request: sessions.BranchSessionRequest, context: Context
    ) -> sessions.BranchSessionResponse:
        """Pass on."""
        return await self._service.BranchSession(request)

    async def GetSessionStatistics(
        self, request: sessions.GetSessionStatisticsRequest, context: Context
    ) -> sessions.GetSessionStatisticsResponse:
        """Pass on."""
        return await self._service.GetSessionStatistics(request)

    async def WatchSession(
        self, request: sessions.WatchSessionRequest, context: Context
    ) -> AsyncIterator[sessions.WatchSessionResponse]:
        """Pass on frame by frame."""
        async for response in relayed(self._service.WatchSession(request)):
            yield response


class Documents(DocumentServiceServicer):
    """Documents and search, at the retrieval service."""

    def __init__(self, service: "DocumentServiceAsyncStub", *, ingest_timeout: float) -> None:
        self._service = service
        self._ingest_timeout = ingest_timeout

    async def AddDocument(
        self, request: documents.AddDocumentRequest, context: Context
    ) -> documents.AddDocumentResponse:
        """Pass on, with the time that embedding a large document takes."""
        return await self._service.AddDocument(request, timeout=self._ingest_timeout)

    async def UploadDocument(
        self, request_iterator: AsyncIterator[documents.UploadDocumentRequest], context: Context
    ) -> AsyncIterator[documents.UploadDocumentResponse]:
        """Pass on, part by part and frame by frame."""
        async for response in exchanged(self._service.UploadDocument(), request_iterator):
            yield response

    async def ReplaceDocument(
        self, request: documents.ReplaceDocumentRequest, context: Context
    ) -> documents.ReplaceDocumentResponse:
        """Pass on, with the time that embedding a large document takes."""
        return await self._service.ReplaceDocument(request, timeout=self._ingest_timeout)

    async def WatchDocument(
        self, request: documents.WatchDocumentRequest, context: Context
    ) -> AsyncIterator[documents.WatchDocumentResponse]:
        """Pass on frame by frame."""
        async for response in relayed(self._service.WatchDocument(request)):
            yield response

    async def GetDocument(
        self, request: documents.GetDocumentRequest, context: Context
    ) -> documents.GetDocumentResponse:
        """Pass on."""
        return await self._service.GetDocument(request)

    async def ListDocuments(
        self, request: documents.ListDocumentsRequest, context: Context
    ) -> documents.ListDocumentsResponse:
        """Pass on."""
        return await self._service.ListDocuments(request)

    async def DeleteDocument(
        self, request: documents.DeleteDocumentRequest, context: Context
    ) -> documents.DeleteDocumentResponse:
        """Pass on."""
        return await self._service.DeleteDocument(request)

    async def CreateDocumentSet(
        self, request: documents.CreateDocumentSetRequest, context: Context
    ) -> documents.CreateDocumentSetResponse:
        """Pass on."""
        return await self._service.CreateDocumentSet(request)

    async def AttachDocuments(
        self, request: documents.AttachDocumentsRequest, context: Context
    ) -> documents.AttachDocumentsResponse:
        """Pass on."""
        return await self._service.AttachDocuments(request)

    async def DetachDocuments(
        self, request: documents.DetachDocumentsRequest, context: Context
    ) -> documents.DetachDocumentsResponse:
        """Pass on."""
        return await self._service.DetachDocuments(request)

    async def SearchDocuments(
        self, request: documents.SearchDocumentsRequest, context: Context
    ) -> documents.SearchDocumentsResponse:
        """Pass on."""
        return await self._service.SearchDocuments(request)


class Admin(AdminServiceServicer):
    """What is in quarantine, at the session service."""

    def __init__(self, service: "AdminServiceAsyncStub") -> None:
        self._service = service

    async def ListQuarantined(
        self, request: admin.ListQuarantinedRequest, context: Context
    ) -> admin.ListQuarantinedResponse:
        """Pass on."""
        return await self._service.ListQuarantined(request)

    async def GetQuarantined(
        self, request: admin.GetQuarantinedRequest, context: Context
    ) -> admin.GetQuarantinedResponse:
        """Pass on."""
        return await self._service.GetQuarantined(request)

    async def DropQuarantined(
        self, request: admin.DropQuarantinedRequest, context: Context
    ) -> admin.DropQuarantinedResponse:
        """Pass on."""
        return await self._service.DropQuarantined(request)


class DeadLetterAdmin(DeadLetterAdminServiceServicer):
    """Dead letters of the archive, through the session service."""

    def __init__(self, service: "DeadLetterAdminServiceAsyncStub") -> None:
        self._service = service

    async def ListDeadLetters(
        self, request: dead_letters.ListDeadLettersRequest, context: Context
    ) -> dead_letters.ListDeadLettersResponse:
        """Pass on."""
        return await self._service.ListDeadLetters(request)

    async def GetDeadLetter(
        self, request: dead_letters.GetDeadLetterRequest, context: Context
    ) -> dead_letters.GetDeadLetterResponse:
        """Pass on."""
        return await self._service.GetDeadLetter(request)

    async def RedriveDeadLetters(
        self, request: dead_letters.RedriveDeadLettersRequest, context: Context
    ) -> dead_letters.RedriveDeadLettersResponse:
        """Pass on."""
        return await self._service.RedriveDeadLetters(request)

    async def DropDeadLetters(
        self, request: dead_letters.DropDeadLettersRequest, context: Context
    ) -> dead_letters.DropDeadLettersResponse:
        """Pass on."""
        return await self._service.DropDeadLetters(request)


class DocumentAdmin(DocumentAdminServiceServicer):
    """The documents of all tenants, at the retrieval service."""

    def __init__(self, service: "DocumentAdminServiceAsyncStub", *, timeout: float) -> None:
        self._service = service
        self._timeout = timeout

    async def CheckDocuments(
        self, request: document_admin.CheckDocumentsRequest, context: Context
    ) -> document_admin.CheckDocumentsResponse:
        """Pass on, with the time that it takes to look at everything."""
        return await self._service.CheckDocuments(request, timeout=self._timeout)

    async def CleanUpDocuments(
        self, request: document_admin.CleanUpDocumentsRequest, context: Context
    ) -> document_admin.CleanUpDocumentsResponse:
        """Pass on, with the time that it takes to look at everything."""
        return await self._service.CleanUpDocuments(request, timeout=self._timeout)

    async def GetDocumentTotals(
        self, request: document_admin.GetDocumentTotalsRequest, context: Context
    ) -> document_admin.GetDocumentTotalsResponse:
        """Pass on."""
        return await self._service.GetDocumentTotals(request)


class IndexAdmin(IndexAdminServiceServicer):
    """Index versions, at the retrieval service."""

    def __init__(self, service: "IndexAdminServiceAsyncStub", *, timeout: float) -> None:
        self._service = service
        self._timeout = timeout

    async def ListIndexVersions(
        self, request: indexes.ListIndexVersionsRequest, context: Context
    ) -> indexes.ListIndexVersionsResponse:
        """Pass on."""
        return await self._service.ListIndexVersions(request)

    async def BuildIndexVersion(
        self, request: indexes.BuildIndexVersionRequest, context: Context
    ) -> AsyncIterator[indexes.BuildIndexVersionResponse]:
        """Pass on frame by frame."""
        async for response in relayed(self._service.BuildIndexVersion(request)):
            yield response

    async def SwitchIndexVersion(
        self, request: indexes.SwitchIndexVersionRequest, context: Context
    ) -> indexes.SwitchIndexVersionResponse:
        """Pass on."""
        return await self._service.SwitchIndexVersion(request)

    async def RollbackIndexVersion(
        self, request: indexes.RollbackIndexVersionRequest, context: Context
    ) -> indexes.RollbackIndexVersionResponse:
        """Pass on."""
        return await self._service.RollbackIndexVersion(request)

    async def DropIndexVersion(
        self, request: indexes.DropIndexVersionRequest, context: Context
    ) -> indexes.DropIndexVersionResponse:
        """Pass on, with the time that it takes to remove everything."""
        return await self._service.DropIndexVersion(request, timeout=self._timeout)

    async def ExportIndexVersion(
        self, request: indexes.ExportIndexVersionRequest, context: Context
    ) -> AsyncIterator[indexes.ExportIndexVersionResponse]:
        """Pass on part by part."""
        async for response in relayed(self._service.ExportIndexVersion(request)):
            yield response

    async def ImportIndexVersion(
        self, request_iterator: AsyncIterator[indexes.ImportIndexVersionRequest], context: Context
    ) -> AsyncIterator[indexes.ImportIndexVersionResponse]:
        """Pass on, part by part and frame by frame."""
        async for response in exchanged(self._service.ImportIndexVersion(), request_iterator):
            yield response
