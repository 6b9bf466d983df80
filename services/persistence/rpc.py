"""gRPC in, archive call, gRPC out."""

from typing import Any, TypeAlias

import grpc

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.v1.session_service_pb2 import SESSION_ORDER_NEWEST_FIRST, SessionOrder
from services.persistence.document_rpc import DocumentCalls
from services.persistence.ports import Archive, Branches, Reads
from services.persistence.requests import for_services, limited, place
from services.runtime.errors import InvalidArgument
from services.runtime.server import MEBIBYTE

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MOST_BYTES = 2 * MEBIBYTE
"""Of a list of sessions or messages: callers may take no more than 4 MiB in one message."""


class ArchiveServicer(DocumentCalls):
    """The archive, for services: tenant and user are arguments, and the caller vouches for them."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive)
        self._reads: Reads = archive
        self._branches: Branches = archive

    async def GetSessionSnapshot(
        self, request: pb.GetSessionSnapshotRequest, context: Context
    ) -> pb.GetSessionSnapshotResponse:
        for_services()
        window = limited("window", request.window, least=0)
        found = await self._reads.snapshot(request.session_id, window=window)
        return pb.GetSessionSnapshotResponse(
            deleted=found.deleted,
            tenant=found.tenant,
            session=found.session,
            window=found.window,
            unfinished=found.unfinished,
            last_position=found.last_position,
            last_turn_id=found.last_turn_id,
            annotations=found.annotations,
        )

    async def ListArchivedSessions(
        self, request: pb.ListArchivedSessionsRequest, context: Context
    ) -> pb.ListArchivedSessionsResponse:
        for_services()
        page = await self._reads.list_sessions(
            request.tenant,
            request.user_id,
            after=place(request, request.before_session_id),
            limit=limited("limit", request.limit),
            most_bytes=MOST_BYTES,
            order=_order(request.order),
        )
        return pb.ListArchivedSessionsResponse(sessions=page.items, cut=page.cut)

    async def CountArchivedSessions(
        self, request: pb.CountArchivedSessionsRequest, context: Context
    ) -> pb.CountArchivedSessionsResponse:
        for_services()
        count = await self._reads.count_sessions(request.tenant, request.user_id)
        return pb.CountArchivedSessionsResponse(count=count)

    async def ListArchivedMessages(
        self, request: pb.ListArchivedMessagesRequest, context: Context
    ) -> pb.ListArchivedMessagesResponse:
        for_services()
        up = request.oldest_first
        page = await self._reads.list_messages(
            request.session_id,
            beyond=request.after_position if up else request.before_position,
            limit=limited("limit", request.limit),
            most_bytes=MOST_BYTES,
            oldest_first=up,
        )
        return pb.ListArchivedMessagesResponse(messages=page.items, cut=page.cut, oldest_first=up)

    async def GetArchivedMessage(
        self, request: pb.GetArchivedMessageRequest, context: Context
    ) -> pb.GetArchivedMessageResponse:
        for_services()
        message = await self._reads.get_message(request.session_id, request.message_id)
        return pb.GetArchivedMessageResponse(message=message)

    async def CreateBranch(
        self, request: pb.CreateBranchRequest, context: Context
    ) -> pb.CreateBranchResponse:
        for_services()
        created = await self._branches.create_branch(
            request.tenant,
            request.branch,
            request.window,
            request.window_position,
            request.findings,
        )
        return pb.CreateBranchResponse(created=created)

    async def GetArchivedStatistics(
        self, request: pb.GetArchivedStatisticsRequest, context: Context
    ) -> pb.GetArchivedStatisticsResponse:
        for_services()
        found = await self._reads.statistics(request.session_id, list(request.except_turn_ids))
        return pb.GetArchivedStatisticsResponse(statistics=found)

    async def GetArchivedTurn(
        self, request: pb.GetArchivedTurnRequest, context: Context
    ) -> pb.GetArchivedTurnResponse:
        for_services()
        turn = await self._reads.get_turn(request.turn_id, request.session_id)
        response = pb.GetArchivedTurnResponse(
            job=turn.job, finished=turn.finished, session_deleted=turn.session_deleted
        )
        if turn.archive_time is not None:
            response.archive_time.FromDatetime(turn.archive_time)
        return response


def _order(value: SessionOrder.ValueType) -> SessionOrder.ValueType:
    if value not in SessionOrder.values():
        raise InvalidArgument("order", f"is no known order: {value}")
    return value or SESSION_ORDER_NEWEST_FIRST
