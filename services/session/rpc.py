"""gRPC in, domain call, gRPC out."""

from collections.abc import AsyncIterator

from maieutic.v1 import (
    admin_service_pb2 as admin_pb,
    session_service_pb2 as session_pb,
    specification_service_pb2 as specification_pb,
)
from maieutic.v1.admin_service_pb2_grpc import AdminServiceServicer
from maieutic.v1.session_service_pb2_grpc import SessionServiceServicer
from maieutic.v1.specification_service_pb2_grpc import SpecificationServiceServicer
from services.runtime.first_outcome import first_outcome_only
from services.session.branching import Branching
from services.session.callers import GATEWAY, Context, calling_user, only_for
from services.session.conversations import Conversations
from services.session.history import History
from services.session.listing import SessionList
from services.session.notebook import Notebook
from services.session.quarantine import QuarantineOffice
from services.session.session_watching import SessionWatching
from services.session.specifications import Specifications
from services.session.statistics import Statistics


class SessionServicer(SessionServiceServicer):
    """The public SessionService, for the tenant and user that the gateway vouches for."""

    def __init__(
        self,
        *,
        conversations: Conversations,
        history: History,
        session_list: SessionList,
        notebook: Notebook,
        branching: Branching,
        statistics: Statistics,
        watching: SessionWatching,
    ) -> None:
        self._conversations = conversations
        self._history = history
        self._list = session_list
        self._notebook = notebook
        self._branching = branching
        self._statistics = statistics
        self._watching = watching

    async def CreateSession(
        self, request: session_pb.CreateSessionRequest, context: Context
    ) -> session_pb.CreateSessionResponse:
        session = await self._conversations.create(
            calling_user(), request, anew=not first_outcome_only(context)
        )
        return session_pb.CreateSessionResponse(session=session)

    async def GetSession(
        self, request: session_pb.GetSessionRequest, context: Context
    ) -> session_pb.GetSessionResponse:
        session = await self._conversations.get(calling_user(), request.session_id)
        return session_pb.GetSessionResponse(session=session)

    async def ListSessions(
        self, request: session_pb.ListSessionsRequest, context: Context
    ) -> session_pb.ListSessionsResponse:
        sessions, token = await self._list.page(calling_user(), request)
        return session_pb.ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def GetOrCreateSession(
        self, request: session_pb.GetOrCreateSessionRequest, context: Context
    ) -> session_pb.GetOrCreateSessionResponse:
        session, created = await self._conversations.get_or_create(calling_user(), request)
        return session_pb.GetOrCreateSessionResponse(session=session, created=created)

    async def UpdateSession(
        self, request: session_pb.UpdateSessionRequest, context: Context
    ) -> session_pb.UpdateSessionResponse:
        # No other change is made after a search: it needs no look at the metadata.
        searched = "document_ids" in request.update_mask.paths
        session = await self._conversations.update(
            calling_user(), request, anew=not (searched and first_outcome_only(context))
        )
        return session_pb.UpdateSessionResponse(session=session)

    async def EndSession(
        self, request: session_pb.EndSessionRequest, context: Context
    ) -> session_pb.EndSessionResponse:
        session = await self._conversations.end(calling_user(), request)
        return session_pb.EndSessionResponse(session=session)

    async def TouchSession(
        self, request: session_pb.TouchSessionRequest, context: Context
    ) -> session_pb.TouchSessionResponse:
        session = await self._conversations.touch(calling_user(), request)
        return session_pb.TouchSessionResponse(session=session)

    async def DeleteSession(
        self, request: session_pb.DeleteSessionRequest, context: Context
    ) -> session_pb.DeleteSessionResponse:
        await self._conversations.delete(calling_user(), request)
        return session_pb.DeleteSessionResponse()

    async def ListMessages(
        self, request: session_pb.ListMessagesRequest, context: Context
    ) -> session_pb.ListMessagesResponse:
        messages, token = await self._history.page(calling_user(), request)
        return session_pb.ListMessagesResponse(messages=messages, next_page_token=token)

    async def AddNote(
        self, request: session_pb.AddNoteRequest, context: Context
    ) -> session_pb.AddNoteResponse:
        note, session = await self._notebook.add_note(calling_user(), request)
        return session_pb.AddNoteResponse(note=note, session=session)

    async def ListNotes(
        self, request: session_pb.ListNotesRequest, context: Context
    ) -> session_pb.ListNotesResponse:
        notes, token = await self._notebook.list_notes(calling_user(), request)
        return session_pb.ListNotesResponse(notes=notes, next_page_token=token)

    async def DeleteNote(
        self, request: session_pb.DeleteNoteRequest, context: Context
    ) -> session_pb.DeleteNoteResponse:
        session = await self._notebook.delete_note(calling_user(), request)
        return session_pb.DeleteNoteResponse(session=session)

    async def AddBookmark(
        self, request: session_pb.AddBookmarkRequest, context: Context
    ) -> session_pb.AddBookmarkResponse:
        bookmark, session = await self._notebook.add_bookmark(calling_user(), request)
        return session_pb.AddBookmarkResponse(bookmark=bookmark, session=session)

    async def ListBookmarks(
        self, request: session_pb.ListBookmarksRequest, context: Context
    ) -> session_pb.ListBookmarksResponse:
        bookmarks, token = await self._notebook.list_bookmarks(calling_user(), request)
        return session_pb.ListBookmarksResponse(bookmarks=bookmarks, next_page_token=token)

    async def DeleteBookmark(
        self, request: session_pb.DeleteBookmarkRequest, context: Context
    ) -> session_pb.DeleteBookmarkResponse:
        session = await self._notebook.delete_bookmark(calling_user(), request)
        return session_pb.DeleteBookmarkResponse(session=session)

    async def BranchSession(
        self, request: session_pb.BranchSessionRequest, context: Context
    ) -> session_pb.BranchSessionResponse:
        session = await self._branching.branch(calling_user(), request)
        return session_pb.BranchSessionResponse(session=session)

    async def GetSessionStatistics(
        self, request: session_pb.GetSessionStatisticsRequest, context: Context
    ) -> session_pb.GetSessionStatisticsResponse:
        found = await self._statistics.of(calling_user(), request.session_id)
        return session_pb.GetSessionStatisticsResponse(statistics=found)

    async def WatchSession(
        self, request: session_pb.WatchSessionRequest, context: Context
    ) -> AsyncIterator[session_pb.WatchSessionResponse]:
        async for frame in self._watching.watch(calling_user(), request.session_id, request.cursor):
            yield session_pb.WatchSessionResponse(frame=frame)


class SpecificationServicer(SpecificationServiceServicer):
    """The public SpecificationService, for the tenant and user that the gateway vouches for."""

    def __init__(self, specifications: Specifications) -> None:
        self._specifications = specifications

    async def ListSpecifications(
        self, request: specification_pb.ListSpecificationsRequest, context: Context
    ) -> specification_pb.ListSpecificationsResponse:
        found, token = await self._specifications.specifications(calling_user(), request)
        return specification_pb.ListSpecificationsResponse(
            specifications=found, next_page_token=token
        )

    async def ListConflicts(
        self, request: specification_pb.ListConflictsRequest, context: Context
    ) -> specification_pb.ListConflictsResponse:
        found, token = await self._specifications.conflicts(calling_user(), request)
        return specification_pb.ListConflictsResponse(conflicts=found, next_page_token=token)

    async def ListQuestions(
        self, request: specification_pb.ListQuestionsRequest, context: Context
    ) -> specification_pb.ListQuestionsResponse:
        found, token = await self._specifications.questions(calling_user(), request)
        return specification_pb.ListQuestionsResponse(questions=found, next_page_token=token)

    async def GetSummary(
        self, request: specification_pb.GetSummaryRequest, context: Context
    ) -> specification_pb.GetSummaryResponse:
        summary = await self._specifications.summary(calling_user(), request)
        return specification_pb.GetSummaryResponse(summary=summary)

    async def ResolveConflict(
        self, request: specification_pb.ResolveConflictRequest, context: Context
    ) -> specification_pb.ResolveConflictResponse:
        conflict = await self._specifications.resolve(calling_user(), request)
        return specification_pb.ResolveConflictResponse(conflict=conflict)


class AdminServicer(AdminServiceServicer):
    """The public AdminService, for those whom the gateway vouches for as admins."""

    def __init__(self, quarantine: QuarantineOffice) -> None:
        self._quarantine = quarantine

    async def ListQuarantined(
        self, request: admin_pb.ListQuarantinedRequest, context: Context
    ) -> admin_pb.ListQuarantinedResponse:
        only_for(GATEWAY)
        records, token = await self._quarantine.page(request)
        return admin_pb.ListQuarantinedResponse(records=records, next_page_token=token)

    async def GetQuarantined(
        self, request: admin_pb.GetQuarantinedRequest, context: Context
    ) -> admin_pb.GetQuarantinedResponse:
        only_for(GATEWAY)
        return await self._quarantine.get(request.record_id, with_content=request.with_content)

    async def DropQuarantined(
        self, request: admin_pb.DropQuarantinedRequest, context: Context
    ) -> admin_pb.DropQuarantinedResponse:
        only_for(GATEWAY)
        await self._quarantine.drop(calling_user(), request)
        return admin_pb.DropQuarantinedResponse()
