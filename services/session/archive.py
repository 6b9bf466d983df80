"""What the session service asks the archive, in domain errors."""

from collections.abc import Awaitable
from typing import TypeVar

import grpc

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceStub
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import Session
from services.runtime.errors import from_rpc
from services.session.model import WINDOW_MESSAGES, timestamp

T = TypeVar("T")


class Archive:
    """Cold reads. Every method may raise Unavailable."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ArchiveServiceStub(channel)

    async def snapshot(self, session_id: str) -> pb.GetSessionSnapshotResponse:
        """Return what brings a session back; empty if the archive does not know it."""
        request = pb.GetSessionSnapshotRequest(session_id=session_id, window=WINDOW_MESSAGES)
        return await _answer(self._stub.GetSessionSnapshot(request))

    async def turn(self, turn_id: str, session_id: str = "") -> pb.GetArchivedTurnResponse:
        """Return a turn's row; empty if the archive does not know it."""
        request = pb.GetArchivedTurnRequest(turn_id=turn_id, session_id=session_id)
        return await _answer(self._stub.GetArchivedTurn(request))

    async def sessions(
        self, tenant: str, user: str, before: tuple[int, str] | None, limit: int
    ) -> list[Session]:
        """Return a user's sessions, newest first, those before a place in the list."""
        request = pb.ListArchivedSessionsRequest(tenant=tenant, user_id=user, limit=limit)
        if before is not None:
            request.before_create_time.CopyFrom(timestamp(before[0]))
            request.before_session_id = before[1]
        return list((await _answer(self._stub.ListArchivedSessions(request))).sessions)

    async def messages(self, session_id: str, before: int, limit: int) -> list[Message]:
        """Return messages with positions below *before* (0: all), newest first."""
        request = pb.ListArchivedMessagesRequest(
            session_id=session_id, before_position=before, limit=limit
        )
        return list((await _answer(self._stub.ListArchivedMessages(request))).messages)


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error
