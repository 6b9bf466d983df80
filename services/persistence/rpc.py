"""gRPC in, archive call, gRPC out."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceServicer
from maieutic.v1.document_service_pb2 import DocumentFormat
from maieutic.v1.session_service_pb2 import SESSION_ORDER_NEWEST_FIRST, SessionOrder
from services.persistence.facts import UNKNOWN_TIME, time_of
from services.persistence.ports import Branches, DocumentRegistry, Place, Reads, Registration
from services.runtime.errors import InvalidArgument, PermissionDenied
from services.runtime.identity import current_identity
from services.runtime.server import MEBIBYTE

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

CALLERS = frozenset({"session", "retrieval"})
MOST = 1000
"""No list is longer than this."""
MOST_BYTES = 2 * MEBIBYTE
"""Nor larger, sessions and messages: callers may take no more than 4 MiB in one message."""


class ArchiveServicer(ArchiveServiceServicer):
    """The archive, for services: tenant and user are arguments, and the caller vouches for them."""

    def __init__(self, *, reads: Reads, branches: Branches, documents: DocumentRegistry) -> None:
        self._reads = reads
        self._branches = branches
        self._documents = documents

    async def GetSessionSnapshot(
        self, request: pb.GetSessionSnapshotRequest, context: Context
    ) -> pb.GetSessionSnapshotResponse:
        _for_services()
        window = _limited("window", request.window, least=0)
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
        _for_services()
        page = await self._reads.list_sessions(
            request.tenant,
            request.user_id,
            after=_place(request, request.before_session_id),
            limit=_limited("limit", request.limit),
            most_bytes=MOST_BYTES,
            order=_order(request.order),
        )
        return pb.ListArchivedSessionsResponse(sessions=page.items, cut=page.cut)

    async def CountArchivedSessions(
        self, request: pb.CountArchivedSessionsRequest, context: Context
    ) -> pb.CountArchivedSessionsResponse:
        _for_services()
        count = await self._reads.count_sessions(request.tenant, request.user_id)
        return pb.CountArchivedSessionsResponse(count=count)

    async def ListArchivedMessages(
        self, request: pb.ListArchivedMessagesRequest, context: Context
    ) -> pb.ListArchivedMessagesResponse:
        _for_services()
        up = request.oldest_first
        page = await self._reads.list_messages(
            request.session_id,
            beyond=request.after_position if up else request.before_position,
            limit=_limited("limit", request.limit),
            most_bytes=MOST_BYTES,
            oldest_first=up,
        )
        return pb.ListArchivedMessagesResponse(messages=page.items, cut=page.cut, oldest_first=up)

    async def GetArchivedMessage(
        self, request: pb.GetArchivedMessageRequest, context: Context
    ) -> pb.GetArchivedMessageResponse:
        _for_services()
        message = await self._reads.get_message(request.session_id, request.message_id)
        return pb.GetArchivedMessageResponse(message=message)

    async def CreateBranch(
        self, request: pb.CreateBranchRequest, context: Context
    ) -> pb.CreateBranchResponse:
        _for_services()
        created = await self._branches.create_branch(
            request.tenant, request.branch, request.window, request.window_position
        )
        return pb.CreateBranchResponse(created=created)

    async def GetArchivedStatistics(
        self, request: pb.GetArchivedStatisticsRequest, context: Context
    ) -> pb.GetArchivedStatisticsResponse:
        _for_services()
        found = await self._reads.statistics(request.session_id, list(request.except_turn_ids))
        return pb.GetArchivedStatisticsResponse(statistics=found)

    async def GetArchivedTurn(
        self, request: pb.GetArchivedTurnRequest, context: Context
    ) -> pb.GetArchivedTurnResponse:
        _for_services()
        turn = await self._reads.get_turn(request.turn_id, request.session_id)
        response = pb.GetArchivedTurnResponse(
            job=turn.job, finished=turn.finished, session_deleted=turn.session_deleted
        )
        if turn.archive_time is not None:
            response.archive_time.FromDatetime(turn.archive_time)
        return response

    async def RegisterDocument(
        self, request: pb.RegisterDocumentRequest, context: Context
    ) -> pb.RegisterDocumentResponse:
        _for_services()
        _check_document(request)
        registration = Registration(
            tenant=request.tenant,
            user_id=request.user_id,
            request_id=request.request_id,
            request_hash=request.request_hash,
            document=request.document,
            content=request.content,
        )
        document = await self._documents.register_document(registration)
        return pb.RegisterDocumentResponse(document=document)

    async def FinishDocument(
        self, request: pb.FinishDocumentRequest, context: Context
    ) -> pb.FinishDocumentResponse:
        _for_services()
        document = await self._documents.finish_document(
            request.tenant, request.document_id, request.chunk_count
        )
        return pb.FinishDocumentResponse(document=document)

    async def GetRegisteredDocument(
        self, request: pb.GetRegisteredDocumentRequest, context: Context
    ) -> pb.GetRegisteredDocumentResponse:
        _for_services()
        document = await self._documents.get_document(
            request.tenant, request.user_id, request.document_id
        )
        return pb.GetRegisteredDocumentResponse(document=document)

    async def ListRegisteredDocuments(
        self, request: pb.ListRegisteredDocumentsRequest, context: Context
    ) -> pb.ListRegisteredDocumentsResponse:
        _for_services()
        documents = await self._documents.list_documents(
            request.tenant,
            request.user_id,
            before=_place(request, request.before_document_id),
            limit=_limited("limit", request.limit),
        )
        return pb.ListRegisteredDocumentsResponse(documents=documents)

    async def ReleaseDocument(
        self, request: pb.ReleaseDocumentRequest, context: Context
    ) -> pb.ReleaseDocumentResponse:
        _for_services()
        last = await self._documents.release_document(
            request.tenant, request.user_id, request.document_id
        )
        return pb.ReleaseDocumentResponse(last=last)


def _for_services() -> None:
    if current_identity().service not in CALLERS:
        raise PermissionDenied("the archive answers only the services of the system")


def _limited(field: str, value: int, *, least: int = 1) -> int:
    if not least <= value <= MOST:
        raise InvalidArgument(field, f"must be {least} to {MOST}, is {value}")
    return value


def _order(value: SessionOrder.ValueType) -> SessionOrder.ValueType:
    if value not in SessionOrder.values():
        raise InvalidArgument("order", f"is no known order: {value}")
    return value or SESSION_ORDER_NEWEST_FIRST


def _place(request: Message, before_id: str) -> Place | None:
    try:
        before = time_of(request, "before_create_time")
    except (ValueError, OverflowError) as error:
        raise InvalidArgument("before_create_time", str(error)) from error
    if before is None and not before_id:
        return None
    return Place(time=before or UNKNOWN_TIME, id=before_id)


def _check_document(request: pb.RegisterDocumentRequest) -> None:
    document = request.document
    required: Sequence[tuple[str, str]] = (
        ("request_id", request.request_id),
        ("document.document_id", document.document_id),
        ("document.content_hash", document.content_hash),
    )
    missing = {field: "must not be empty" for field, value in required if not value}
    if document.format not in DocumentFormat.values():
        missing["document.format"] = f"is no known format: {document.format}"
    if missing:
        raise InvalidArgument.fields(missing)
