"""A SpecificationService that keeps what it is given, for clients and the gateway."""

from typing import Any, TypeAlias

import grpc

from maieutic.v1 import specification_pb2 as pb, specification_service_pb2 as service
from maieutic.v1.specification_service_pb2_grpc import SpecificationServiceServicer
from services.runtime.errors import NotFound
from tests.fakes.conversations import Conversations, page_of

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class FakeSpecifications(SpecificationServiceServicer):
    """Answers from `Conversations.findings`."""

    def __init__(self, state: Conversations) -> None:
        self._state = state

    async def ListSpecifications(
        self, request: service.ListSpecificationsRequest, context: Context
    ) -> service.ListSpecificationsResponse:
        found = self._state.found(request.session_id).specifications
        page, token = page_of(found, request.page_size, request.page_token)
        return service.ListSpecificationsResponse(specifications=page, next_page_token=token)

    async def ListConflicts(
        self, request: service.ListConflictsRequest, context: Context
    ) -> service.ListConflictsResponse:
        found = self._state.found(request.session_id).conflicts
        page, token = page_of(found, request.page_size, request.page_token)
        return service.ListConflictsResponse(conflicts=page, next_page_token=token)

    async def ListQuestions(
        self, request: service.ListQuestionsRequest, context: Context
    ) -> service.ListQuestionsResponse:
        found = self._state.found(request.session_id).questions
        page, token = page_of(found, request.page_size, request.page_token)
        return service.ListQuestionsResponse(questions=page, next_page_token=token)

    async def GetSummary(
        self, request: service.GetSummaryRequest, context: Context
    ) -> service.GetSummaryResponse:
        found = self._state.found(request.session_id)
        known = found.HasField("summary")
        return service.GetSummaryResponse(summary=found.summary if known else None)

    async def ResolveConflict(
        self, request: service.ResolveConflictRequest, context: Context
    ) -> service.ResolveConflictResponse:
        for conflict in self._state.found(request.session_id).conflicts:
            if conflict.conflict_id == request.conflict_id:
                resolution = pb.Resolution(kind=request.kind, value=request.value)
                conflict.resolution.CopyFrom(resolution)
                return service.ResolveConflictResponse(conflict=conflict)
        raise NotFound("conflict", request.conflict_id)
