"""A session's stream, which outlives the connections it is read from."""

from typing import TYPE_CHECKING, Any

from maieutic.v1 import session_service_pb2 as pb
from maieutic_client.connection import Connection
from maieutic_client.resuming import ResumingStream

if TYPE_CHECKING:
    from maieutic.v1.session_service_pb2_grpc import SessionServiceAsyncStub


class SessionStream(ResumingStream):
    """What happens in one session, until it is deleted.

    When the connection breaks, the stream goes on after the last frame that it got: nothing is
    missed and nothing comes twice, but for what a `gap` says. Errors that do not pass by themselves
    are raised as `MaieuticError`.
    """

    def __init__(
        self,
        connection: Connection,
        stub: "SessionServiceAsyncStub",
        session_id: str,
        *,
        cursor: str = "",
        timeout: float | None = None,
    ) -> None:
        super().__init__(connection, cursor=cursor, timeout=timeout)
        self.session_id = session_id
        self.session: pb.Session | None = None
        """The session as it was told last."""
        self.deleted = False
        """Whether the last frame has come."""
        self._stub = stub

    async def __anext__(self) -> pb.SessionFrame:
        while not self.deleted:
            frame: pb.SessionFrame | None = await self._received()
            if frame is None:
                continue
            self._apply(frame)
            if frame.WhichOneof("event"):  # else it only says that the stream is still there
                return frame
        raise StopAsyncIteration

    def _open(self, timeout: float | None) -> Any:
        request = pb.WatchSessionRequest(session_id=self.session_id, cursor=self.cursor)
        return self._stub.WatchSession(request, timeout=timeout, metadata=self._metadata(request))

    def _watched(self) -> str:
        return f"session {self.session_id}"

    def _apply(self, frame: pb.SessionFrame) -> None:
        self.cursor = frame.cursor or self.cursor
        match frame.WhichOneof("event"):
            case "snapshot":
                self.session = frame.snapshot.current.session
            case "gap":
                self.session = frame.gap.snapshot.current.session
            case "session_changed":
                self.session = frame.session_changed.session
            case "session_deleted":
                self.deleted = True
                self._ended()
