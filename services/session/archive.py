"""What the session service asks the archive, in domain errors."""

from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceStub
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import Session, SessionOrder, SessionStatistics
from maieutic.v1.turn_service_pb2 import Findings
from services.runtime.errors import Unavailable, Unimplemented, from_rpc
from services.session.archive_turns import may_be_asked
from services.session.model import WINDOW_MESSAGES, timestamp

if TYPE_CHECKING:  # a typing name of the generated stubs
    from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceAsyncStub

T = TypeVar("T")


class Archive:
    """Cold reads. Every method may raise Unavailable, or AsksArchive where nobody may wait."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._asked: ArchiveServiceAsyncStub = ArchiveServiceStub(channel)

    @property
    def _stub(self) -> "ArchiveServiceAsyncStub":
        may_be_asked()
        return self._asked

    async def snapshot(self, session_id: str) -> pb.GetSessionSnapshotResponse:
        """Return what brings a session back; empty if the archive does not know it."""
        request = pb.GetSessionSnapshotRequest(session_id=session_id, window=WINDOW_MESSAGES)
        return await answered(self._stub.GetSessionSnapshot(request))

    async def turn(self, turn_id: str, session_id: str = "") -> pb.GetArchivedTurnResponse:
        """Return a turn's row; empty if the archive does not know it."""
        request = pb.GetArchivedTurnRequest(turn_id=turn_id, session_id=session_id)
        return await answered(self._stub.GetArchivedTurn(request))

    async def sessions(
        self,
        tenant: str,
        user: str,
        order: SessionOrder.ValueType,
        after: tuple[int, str] | None,
        limit: int,
    ) -> tuple[list[Session], bool]:
        """Return a user's sessions after a place in the list, in the order, and if more follow."""
        request = pb.ListArchivedSessionsRequest(
            tenant=tenant, user_id=user, limit=limit, order=order
        )
        if after is not None:
            request.before_create_time.CopyFrom(timestamp(after[0]))
            request.before_session_id = after[1]
        answer = await answered(self._stub.ListArchivedSessions(request))
        return list(answer.sessions), answer.cut or len(answer.sessions) >= limit

    async def message(self, session_id: str, message_id: str) -> Message | None:
        """Return a message of a session; None if the archive does not know it."""
        request = pb.GetArchivedMessageRequest(session_id=session_id, message_id=message_id)
        answer = await answered(self._stub.GetArchivedMessage(request))
        return answer.message if answer.HasField("message") else None

    async def create_branch(
        self,
        tenant: str,
        branch: Session,
        window: Sequence[Message],
        window_position: int,
        findings: Findings,
    ) -> bool:
        """Store a branch with what it begins with; returns whether it was not there.

        Raises NotFound.
        """
        request = pb.CreateBranchRequest(
            tenant=tenant,
            branch=branch,
            window=window,
            window_position=window_position,
            findings=findings,
        )
        return (await answered(self._stub.CreateBranch(request))).created

    async def statistics(
        self, session_id: str, except_turn_ids: Iterable[str]
    ) -> SessionStatistics:
        """Return what a session's archived turns consumed."""
        request = pb.GetArchivedStatisticsRequest(
            session_id=session_id, except_turn_ids=except_turn_ids
        )
        return (await answered(self._stub.GetArchivedStatistics(request))).statistics

    async def count_sessions(self, tenant: str, user: str) -> int:
        """Return how many sessions of a user the archive has."""
        request = pb.CountArchivedSessionsRequest(tenant=tenant, user_id=user)
        try:
            return (await answered(self._stub.CountArchivedSessions(request))).count
        except Unimplemented:
            # An archive of the version before, during an upgrade: a limit that is not enforced for
            # a moment does less harm than sessions that cannot be created.
            return 0

    async def messages(
        self, session_id: str, beyond: int, limit: int, *, oldest_first: bool = False
    ) -> tuple[list[Message], bool]:
        """Return messages with positions below *beyond* (0: all), newest first, and if more follow.

        Or those above it, oldest first. That more follow is not known of exactly *limit*: ask for
        one more than is needed.
        """
        request = pb.ListArchivedMessagesRequest(
            session_id=session_id,
            before_position=0 if oldest_first else beyond,
            after_position=beyond if oldest_first else 0,
            oldest_first=oldest_first,
            limit=limit,
        )
        answer = await answered(self._stub.ListArchivedMessages(request))
        if answer.oldest_first != oldest_first:
            message = "the archive is of a version that lists messages newest first only: retry"
            raise Unavailable(message, retry_after=1.0)
        return list(answer.messages), answer.cut or len(answer.messages) >= limit


async def answered(call: Awaitable[T]) -> T:
    """Return what the archive answers, its errors as domain errors."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error
