"""The public TurnService: turns and their streams, at the session service."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from maieutic.v1 import turn_service_pb2 as turns
from maieutic.v1.turn_service_pb2_grpc import TurnServiceServicer
from services.gateway.relay import once_found, relayed, require_collection

if TYPE_CHECKING:  # typing names of the generated stubs
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub
    from maieutic.v1.turn_service_pb2_grpc import TurnServiceAsyncStub

    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext


class Turns(TurnServiceServicer):
    """Turns and their streams, at the session service."""

    def __init__(
        self, service: "TurnServiceAsyncStub", documents: "DocumentServiceAsyncStub"
    ) -> None:
        self._service = service
        self._documents = documents

    async def StreamTurn(
        self, request: turns.StreamTurnRequest, context: Context
    ) -> AsyncIterator[turns.StreamTurnResponse]:
        """Pass on frame by frame."""
        async for response in relayed(self._service.StreamTurn(request)):
            yield response

    async def BeginTurn(
        self, request: turns.BeginTurnRequest, context: Context
    ) -> turns.BeginTurnResponse:
        """Pass on."""
        return await self._service.BeginTurn(request)

    async def NextQuestion(
        self, request: turns.NextQuestionRequest, context: Context
    ) -> AsyncIterator[turns.NextQuestionResponse]:
        """Pass on frame by frame."""
        async for response in relayed(self._service.NextQuestion(request)):
            yield response

    async def Analyze(
        self, request: turns.AnalyzeRequest, context: Context
    ) -> AsyncIterator[turns.AnalyzeResponse]:
        """Begin once the collection is known to have documents, and pass on frame by frame."""
        search = require_collection(self._documents, request.collection, field="collection")
        async with once_found(search) as metadata:
            async for response in relayed(self._service.Analyze(request, metadata=metadata)):
                yield response

    async def GenerateCode(
        self, request: turns.GenerateCodeRequest, context: Context
    ) -> AsyncIterator[turns.GenerateCodeResponse]:
        """Pass on frame by frame."""
        async for response in relayed(self._service.GenerateCode(request)):
            yield response

    async def WatchTurn(
        self, request: turns.WatchTurnRequest, context: Context
    ) -> AsyncIterator[turns.WatchTurnResponse]:
        """Pass on frame by frame."""
        async for response in relayed(self._service.WatchTurn(request)):
            yield response

    async def GetTurn(
        self, request: turns.GetTurnRequest, context: Context
    ) -> turns.GetTurnResponse:
        """Pass on."""
        return await self._service.GetTurn(request)

    async def CancelTurn(
        self, request: turns.CancelTurnRequest, context: Context
    ) -> turns.CancelTurnResponse:
        """Pass on."""
        return await self._service.CancelTurn(request)
