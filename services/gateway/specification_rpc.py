"""The public SpecificationService: passed on to the session service."""

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from maieutic.v1 import specification_service_pb2 as specifications
from maieutic.v1.specification_service_pb2_grpc import SpecificationServiceServicer

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.v1.specification_service_pb2_grpc import SpecificationServiceAsyncStub

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Specifications(SpecificationServiceServicer):
    """What agents have found in sessions, at the session service."""

    def __init__(self, service: "SpecificationServiceAsyncStub") -> None:
        self._service = service

    async def ListSpecifications(
        self, request: specifications.ListSpecificationsRequest, context: Context
    ) -> specifications.ListSpecificationsResponse:
        """Pass on."""
        return await self._service.ListSpecifications(request)

    async def ListConflicts(
        self, request: specifications.ListConflictsRequest, context: Context
    ) -> specifications.ListConflictsResponse:
        """Pass on."""
        return await self._service.ListConflicts(request)

    async def ListQuestions(
        self, request: specifications.ListQuestionsRequest, context: Context
    ) -> specifications.ListQuestionsResponse:
        """Pass on."""
        return await self._service.ListQuestions(request)

    async def GetSummary(
        self, request: specifications.GetSummaryRequest, context: Context
    ) -> specifications.GetSummaryResponse:
        """Pass on."""
        return await self._service.GetSummary(request)

    async def ResolveConflict(
        self, request: specifications.ResolveConflictRequest, context: Context
    ) -> specifications.ResolveConflictResponse:
        """Pass on."""
        return await self._service.ResolveConflict(request)
