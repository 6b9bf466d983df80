"""Turns over gRPC: for callers, and for the workers that run them."""

from collections.abc import AsyncIterator

from maieutic.session.v1 import turn_work_service_pb2 as work_pb
from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceServicer
from maieutic.v1 import (
    turn_service_pb2 as turn_pb,
)
from maieutic.v1.turn_service_pb2_grpc import TurnServiceServicer
from services.runtime.first_outcome import first_outcome_only
from services.session.analyses import Analyses
from services.session.archiving import Archiving
from services.session.artifacts import Artifacts
from services.session.callers import ARCHIVE, WORKERS, Context, calling_user, only_for
from services.session.turn_history import TurnHistory
from services.session.turns import Turns
from services.session.watching import Watching
from services.session.work import Work


class TurnServicer(TurnServiceServicer):
    """The public TurnService, for the tenant and user that the gateway vouches for."""

    def __init__(self, turns: Turns, analyses: Analyses, watching: Watching) -> None:
        self._turns = turns
        self._analyses = analyses
        self._watching = watching

    async def StreamTurn(
        self, request: turn_pb.StreamTurnRequest, context: Context
    ) -> AsyncIterator[turn_pb.StreamTurnResponse]:
        caller = calling_user()
        turn = await self._turns.begin(caller, request)
        async for frame in self._watching.follow(caller, turn):
            yield turn_pb.StreamTurnResponse(frame=frame)

    async def BeginTurn(
        self, request: turn_pb.BeginTurnRequest, context: Context
    ) -> turn_pb.BeginTurnResponse:
        return turn_pb.BeginTurnResponse(turn=await self._turns.begin(calling_user(), request))

    async def NextQuestion(
        self, request: turn_pb.NextQuestionRequest, context: Context
    ) -> AsyncIterator[turn_pb.NextQuestionResponse]:
        caller = calling_user()
        turn = await self._turns.begin(caller, request)
        async for frame in self._watching.follow(caller, turn):
            yield turn_pb.NextQuestionResponse(frame=frame)

    async def Analyze(
        self, request: turn_pb.AnalyzeRequest, context: Context
    ) -> AsyncIterator[turn_pb.AnalyzeResponse]:
        caller = calling_user()
        turn = await self._analyses.begin(caller, request, anew=not first_outcome_only(context))
        async for frame in self._watching.follow(caller, turn):
            yield turn_pb.AnalyzeResponse(frame=frame)

    async def GenerateCode(
        self, request: turn_pb.GenerateCodeRequest, context: Context
    ) -> AsyncIterator[turn_pb.GenerateCodeResponse]:
        caller = calling_user()
        turn = await self._turns.begin_code(caller, request)
        async for frame in self._watching.follow(caller, turn):
            yield turn_pb.GenerateCodeResponse(frame=frame)

    async def WatchTurn(
        self, request: turn_pb.WatchTurnRequest, context: Context
    ) -> AsyncIterator[turn_pb.WatchTurnResponse]:
        async for frame in self._watching.watch(calling_user(), request.turn_id, request.cursor):
            yield turn_pb.WatchTurnResponse(frame=frame)

    async def GetTurn(
        self, request: turn_pb.GetTurnRequest, context: Context
    ) -> turn_pb.GetTurnResponse:
        return turn_pb.GetTurnResponse(turn=await self._turns.get(calling_user(), request.turn_id))

    async def CancelTurn(
        self, request: turn_pb.CancelTurnRequest, context: Context
    ) -> turn_pb.CancelTurnResponse:
        return turn_pb.CancelTurnResponse(turn=await self._turns.cancel(calling_user(), request))


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
        only_for(WORKERS)
        return await self._work.claim(request)

    async def RecordTurnEvents(
        self, request_iterator: AsyncIterator[work_pb.RecordTurnEventsRequest], context: Context
    ) -> AsyncIterator[work_pb.RecordTurnEventsResponse]:
        only_for(WORKERS)
        async for request in request_iterator:
            yield await self._work.record(request)

    async def ListTurnMessages(
        self, request: work_pb.ListTurnMessagesRequest, context: Context
    ) -> work_pb.ListTurnMessagesResponse:
        only_for(WORKERS)
        return await self._history.page(request)

    async def PutTurnArtifact(
        self, request: work_pb.PutTurnArtifactRequest, context: Context
    ) -> work_pb.PutTurnArtifactResponse:
        only_for(WORKERS)
        return await self._artifacts.put(request)

    async def CompleteStep(
        self, request: work_pb.CompleteStepRequest, context: Context
    ) -> work_pb.CompleteStepResponse:
        only_for(WORKERS)
        return await self._work.complete_step(request)

    async def ReserveBudget(
        self, request: work_pb.ReserveBudgetRequest, context: Context
    ) -> work_pb.ReserveBudgetResponse:
        only_for(WORKERS)
        return await self._work.reserve_budget(request)

    async def SettleBudget(
        self, request: work_pb.SettleBudgetRequest, context: Context
    ) -> work_pb.SettleBudgetResponse:
        only_for(WORKERS)
        await self._work.settle_budget(request)
        return work_pb.SettleBudgetResponse()

    async def CompleteTurn(
        self, request: work_pb.CompleteTurnRequest, context: Context
    ) -> work_pb.CompleteTurnResponse:
        only_for(WORKERS)
        return await self._work.complete(request)

    async def FailTurn(
        self, request: work_pb.FailTurnRequest, context: Context
    ) -> work_pb.FailTurnResponse:
        only_for(WORKERS)
        return await self._work.fail(request)

    async def ReleaseTurn(
        self, request: work_pb.ReleaseTurnRequest, context: Context
    ) -> work_pb.ReleaseTurnResponse:
        only_for(WORKERS)
        return await self._work.release(request)

    async def MarkArchived(
        self, request: work_pb.MarkArchivedRequest, context: Context
    ) -> work_pb.MarkArchivedResponse:
        only_for(ARCHIVE)
        await self._archiving.mark(request)
        return work_pb.MarkArchivedResponse()

    async def EnsureTurns(
        self, request: work_pb.EnsureTurnsRequest, context: Context
    ) -> work_pb.EnsureTurnsResponse:
        only_for(ARCHIVE)
        rebuilt = await self._work.ensure(request.jobs)
        return work_pb.EnsureTurnsResponse(rebuilt_turn_ids=rebuilt)
