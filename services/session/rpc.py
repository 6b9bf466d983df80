"""gRPC in, domain call, gRPC out."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from maieutic.session.v1 import turn_work_service_pb2 as work_pb
from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceServicer
from maieutic.v1 import (
    admin_service_pb2 as admin_pb,
    session_service_pb2 as session_pb,
    specification_service_pb2 as specification_pb,
    turn_service_pb2 as turn_pb,
)
from maieutic.v1.admin_service_pb2_grpc import AdminServiceServicer
from maieutic.v1.session_service_pb2_grpc import SessionServiceServicer
from maieutic.v1.specification_service_pb2_grpc import SpecificationServiceServicer
from maieutic.v1.turn_service_pb2_grpc import TurnServiceServicer
from services.runtime.identity import current_identity
from services.session.analyses import Analyses
from services.session.archiving import Archiving
from services.session.artifacts import Artifacts
from services.session.branching import Branching
from services.session.conversations import Conversations
from services.session.errors import ServicesOnly
from services.session.history import History
from services.session.listing import SessionList
from services.session.model import Caller
from services.session.notebook import Notebook
from services.session.quarantine import QuarantineOffice
from services.session.session_watching import SessionWatching
from services.session.specifications import Specifications
from services.session.statistics import Statistics
from services.session.turn_history import TurnHistory
from services.session.turns import Turns
from services.session.watching import Watching
from services.session.work import Work

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

WORKERS = frozenset({"agents"})
ARCHIVE = frozenset({"persistence"})
GATEWAY = frozenset({"gateway"})
"""It lets nobody but admins through to the AdminService."""


def _caller() -> Caller:
    identity = current_identity()
    return Caller(tenant=identity.tenant, user=identity.user)


def _only(services: frozenset[str]) -> None:
    if current_identity().service not in services:
        raise ServicesOnly


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
        session = await self._conversations.create(_caller(), request)
        return session_pb.CreateSessionResponse(session=session)

    async def GetSession(
        self, request: session_pb.GetSessionRequest, context: Context
    ) -> session_pb.GetSessionResponse:
        session = await self._conversations.get(_caller(), request.session_id)
        return session_pb.GetSessionResponse(session=session)

    async def ListSessions(
        self, request: session_pb.ListSessionsRequest, context: Context
    ) -> session_pb.ListSessionsResponse:
        sessions, token = await self._list.page(_caller(), request)
        return session_pb.ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def GetOrCreateSession(
        self, request: session_pb.GetOrCreateSessionRequest, context: Context
    ) -> session_pb.GetOrCreateSessionResponse:
        session, created = await self._conversations.get_or_create(_caller(), request)
        return session_pb.GetOrCreateSessionResponse(session=session, created=created)

    async def UpdateSession(
        self, request: session_pb.UpdateSessionRequest, context: Context
    ) -> session_pb.UpdateSessionResponse:
        session = await self._conversations.update(_caller(), request)
        return session_pb.UpdateSessionResponse(session=session)

    async def EndSession(
        self, request: session_pb.EndSessionRequest, context: Context
    ) -> session_pb.EndSessionResponse:
        session = await self._conversations.end(_caller(), request)
        return session_pb.EndSessionResponse(session=session)

    async def TouchSession(
        self, request: session_pb.TouchSessionRequest, context: Context
    ) -> session_pb.TouchSessionResponse:
        session = await self._conversations.touch(_caller(), request)
        return session_pb.TouchSessionResponse(session=session)

    async def DeleteSession(
        self, request: session_pb.DeleteSessionRequest, context: Context
    ) -> session_pb.DeleteSessionResponse:
        await self._conversations.delete(_caller(), request)
        return session_pb.DeleteSessionResponse()

    async def ListMessages(
        self, request: session_pb.ListMessagesRequest, context: Context
    ) -> session_pb.ListMessagesResponse:
        messages, token = await self._history.page(_caller(), request)
        return session_pb.ListMessagesResponse(messages=messages, next_page_token=token)

    async def AddNote(
        self, request: session_pb.AddNoteRequest, context: Context
    ) -> session_pb.AddNoteResponse:
        note, session = await self._notebook.add_note(_caller(), request)
        return session_pb.AddNoteResponse(note=note, session=session)

    async def ListNotes(
        self, request: session_pb.ListNotesRequest, context: Context
    ) -> session_pb.ListNotesResponse:
        notes, token = await self._notebook.list_notes(_caller(), request)
        return session_pb.ListNotesResponse(notes=notes, next_page_token=token)

    async def DeleteNote(
        self, request: session_pb.DeleteNoteRequest, context: Context
    ) -> session_pb.DeleteNoteResponse:
        session = await self._notebook.delete_note(_caller(), request)
        return session_pb.DeleteNoteResponse(session=session)

    async def AddBookmark(
        self, request: session_pb.AddBookmarkRequest, context: Context
    ) -> session_pb.AddBookmarkResponse:
        bookmark, session = await self._notebook.add_bookmark(_caller(), request)
        return session_pb.AddBookmarkResponse(bookmark=bookmark, session=session)

    async def ListBookmarks(
        self, request: session_pb.ListBookmarksRequest, context: Context
    ) -> session_pb.ListBookmarksResponse:
        bookmarks, token = await self._notebook.list_bookmarks(_caller(), request)
        return session_pb.ListBookmarksResponse(bookmarks=bookmarks, next_page_token=token)

    async def DeleteBookmark(
        self, request: session_pb.DeleteBookmarkRequest, context: Context
    ) -> session_pb.DeleteBookmarkResponse:
        session = await self._notebook.delete_bookmark(_caller(), request)
        return session_pb.DeleteBookmarkResponse(session=session)

    async def BranchSession(
        self, request: session_pb.BranchSessionRequest, context: Context
    ) -> session_pb.BranchSessionResponse:
        session = await self._branching.branch(_caller(), request)
        return session_pb.BranchSessionResponse(session=session)

    async def GetSessionStatistics(
        self, request: session_pb.GetSessionStatisticsRequest, context: Context
    ) -> session_pb.GetSessionStatisticsResponse:
        found = await self._statistics.of(_caller(), request.session_id)
        return session_pb.GetSessionStatisticsResponse(statistics=found)

    async def WatchSession(
        self, request: session_pb.WatchSessionRequest, context: Context
    ) -> AsyncIterator[session_pb.WatchSessionResponse]:
        async for frame in self._watching.watch(_caller(), request.session_id, request.cursor):
            yield session_pb.WatchSessionResponse(frame=frame)


class SpecificationServicer(SpecificationServiceServicer):
    """The public SpecificationService, for the tenant and user that the gateway vouches for."""

    def __init__(self, specifications: Specifications) -> None:
        self._specifications = specifications

    async def ListSpecifications(
        self, request: specification_pb.ListSpecificationsRequest, context: Context
    ) -> specification_pb.ListSpecificationsResponse:
        found, token = await self._specifications.specifications(_caller(), request)
        return specification_pb.ListSpecificationsResponse(
            specifications=found, next_page_token=token
        )

    async def ListConflicts(
        self, request: specification_pb.ListConflictsRequest, context: Context
    ) -> specification_pb.ListConflictsResponse:
        found, token = await self._specifications.conflicts(_caller(), request)
        return specification_pb.ListConflictsResponse(conflicts=found, next_page_token=token)

    async def ListQuestions(
        self, request: specification_pb.ListQuestionsRequest, context: Context
    ) -> specification_pb.ListQuestionsResponse:
        found, token = await self._specifications.questions(_caller(), request)
        return specification_pb.ListQuestionsResponse(questions=found, next_page_token=token)

    async def GetSummary(
        self, request: specification_pb.GetSummaryRequest, context: Context
    ) -> specification_pb.GetSummaryResponse:
        summary = await self._specifications.summary(_caller(), request)
        return specification_pb.GetSummaryResponse(summary=summary)

    async def ResolveConflict(
        self, request: specification_pb.ResolveConflictRequest, context: Context
    ) -> specification_pb.ResolveConflictResponse:
        conflict = await self._specifications.resolve(_caller(), request)
        return specification_pb.ResolveConflictResponse(conflict=conflict)


class TurnServicer(TurnServiceServicer):
    """The public TurnService, for the tenant and user that the gateway vouches for."""

    def __init__(self, turns: Turns, analyses: Analyses, watching: Watching) -> None:
        self._turns = turns
        self._analyses = analyses
        self._watching = watching

    async def StreamTurn(
        self, request: turn_pb.StreamTurnRequest, context: Context
    ) -> AsyncIterator[turn_pb.StreamTurnResponse]:
        caller = _caller()
        turn = await self._turns.begin(caller, request)
        async for frame in self._watching.follow(caller, turn):
            yield turn_pb.StreamTurnResponse(frame=frame)

    async def BeginTurn(
        self, request: turn_pb.BeginTurnRequest, context: Context
    ) -> turn_pb.BeginTurnResponse:
        return turn_pb.BeginTurnResponse(turn=await self._turns.begin(_caller(), request))

    async def NextQuestion(
        self, request: turn_pb.NextQuestionRequest, context: Context
    ) -> AsyncIterator[turn_pb.NextQuestionResponse]:
        caller = _caller()
        turn = await self._turns.begin(caller, request)
        async for frame in self._watching.follow(caller, turn):
            yield turn_pb.NextQuestionResponse(frame=frame)

    async def Analyze(
        self, request: turn_pb.AnalyzeRequest, context: Context
    ) -> AsyncIterator[turn_pb.AnalyzeResponse]:
        caller = _caller()
        turn = await self._analyses.begin(caller, request)
        async for frame in self._watching.follow(caller, turn):
            yield turn_pb.AnalyzeResponse(frame=frame)

    async def GenerateCode(
        self, request: turn_pb.GenerateCodeRequest, context: Context
    ) -> AsyncIterator[turn_pb.GenerateCodeResponse]:
        caller = _caller()
        turn = await self._turns.begin_code(caller, request)
        async for frame in self._watching.follow(caller, turn):
            yield turn_pb.GenerateCodeResponse(frame=frame)

    async def WatchTurn(
        self, request: turn_pb.WatchTurnRequest, context: Context
    ) -> AsyncIterator[turn_pb.WatchTurnResponse]:
        async for frame in self._watching.watch(_caller(), request.turn_id, request.cursor):
            yield turn_pb.WatchTurnResponse(frame=frame)

    async def GetTurn(
        self, request: turn_pb.GetTurnRequest, context: Context
    ) -> turn_pb.GetTurnResponse:
        return turn_pb.GetTurnResponse(turn=await self._turns.get(_caller(), request.turn_id))

    async def CancelTurn(
        self, request: turn_pb.CancelTurnRequest, context: Context
    ) -> turn_pb.CancelTurnResponse:
        return turn_pb.CancelTurnResponse(turn=await self._turns.cancel(_caller(), request))


class TurnWorkServicer(TurnWorkServiceServicer):
    """How workers run turns and how the archive confirms them."""

    def __init__(
        self, work: Work, archiving: Archiving, history: TurnHistory, artifacts: Artifacts
    ) -> None:
        self._work = work
        self._archiving = archiving
        self._history = history
        self._artifacts = artifacts

    async def ClaimTurn(
        self, request: work_pb.ClaimTurnRequest, context: Context
    ) -> work_pb.ClaimTurnResponse:
        _only(WORKERS)
        return await self._work.claim(request)

    async def RecordTurnEvents(
        self, request_iterator: AsyncIterator[work_pb.RecordTurnEventsRequest], context: Context
    ) -> AsyncIterator[work_pb.RecordTurnEventsResponse]:
        _only(WORKERS)
        async for request in request_iterator:
            yield await self._work.record(request)

    async def ListTurnMessages(
        self, request: work_pb.ListTurnMessagesRequest, context: Context
    ) -> work_pb.ListTurnMessagesResponse:
        _only(WORKERS)
        return await self._history.page(request)

    async def PutTurnArtifact(
        self, request: work_pb.PutTurnArtifactRequest, context: Context
    ) -> work_pb.PutTurnArtifactResponse:
        _only(WORKERS)
        return await self._artifacts.put(request)

    async def CompleteStep(
        self, request: work_pb.CompleteStepRequest, context: Context
    ) -> work_pb.CompleteStepResponse:
        _only(WORKERS)
        return await self._work.complete_step(request)

    async def ReserveBudget(
        self, request: work_pb.ReserveBudgetRequest, context: Context
    ) -> work_pb.ReserveBudgetResponse:
        _only(WORKERS)
        return await self._work.reserve_budget(request)

    async def SettleBudget(
        self, request: work_pb.SettleBudgetRequest, context: Context
    ) -> work_pb.SettleBudgetResponse:
        _only(WORKERS)
        await self._work.settle_budget(request)
        return work_pb.SettleBudgetResponse()

    async def CompleteTurn(
        self, request: work_pb.CompleteTurnRequest, context: Context
    ) -> work_pb.CompleteTurnResponse:
        _only(WORKERS)
        return await self._work.complete(request)

    async def FailTurn(
        self, request: work_pb.FailTurnRequest, context: Context
    ) -> work_pb.FailTurnResponse:
        _only(WORKERS)
        return await self._work.fail(request)

    async def ReleaseTurn(
        self, request: work_pb.ReleaseTurnRequest, context: Context
    ) -> work_pb.ReleaseTurnResponse:
        _only(WORKERS)
        return await self._work.release(request)

    async def MarkArchived(
        self, request: work_pb.MarkArchivedRequest, context: Context
    ) -> work_pb.MarkArchivedResponse:
        _only(ARCHIVE)
        await self._archiving.mark(request)
        return work_pb.MarkArchivedResponse()

    async def EnsureTurns(
        self, request: work_pb.EnsureTurnsRequest, context: Context
    ) -> work_pb.EnsureTurnsResponse:
        _only(ARCHIVE)
        rebuilt = await self._work.ensure(request.jobs)
        return work_pb.EnsureTurnsResponse(rebuilt_turn_ids=rebuilt)


class AdminServicer(AdminServiceServicer):
    """The public AdminService, for those whom the gateway vouches for as admins."""

    def __init__(self, quarantine: QuarantineOffice) -> None:
        self._quarantine = quarantine

    async def ListQuarantined(
        self, request: admin_pb.ListQuarantinedRequest, context: Context
    ) -> admin_pb.ListQuarantinedResponse:
        _only(GATEWAY)
        records, token = await self._quarantine.page(request)
        return admin_pb.ListQuarantinedResponse(records=records, next_page_token=token)

    async def GetQuarantined(
        self, request: admin_pb.GetQuarantinedRequest, context: Context
    ) -> admin_pb.GetQuarantinedResponse:
        _only(GATEWAY)
        return await self._quarantine.get(request.record_id, with_content=request.with_content)

    async def DropQuarantined(
        self, request: admin_pb.DropQuarantinedRequest, context: Context
    ) -> admin_pb.DropQuarantinedResponse:
        _only(GATEWAY)
        await self._quarantine.drop(_caller(), request)
        return admin_pb.DropQuarantinedResponse()
