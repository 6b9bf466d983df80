"""Conversations."""

from collections.abc import AsyncIterator, Iterable, Mapping

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2_grpc import SessionServiceStub
from maieutic_client.connection import Connection, new_request_id


class Sessions:
    """`client.sessions`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = SessionServiceStub(connection.channel)

    async def create(
        self,
        *,
        title: str = "",
        mode: pb.SessionMode.ValueType = pb.SESSION_MODE_UNSPECIFIED,
        metadata: Mapping[str, str] | None = None,
        document_ids: Iterable[str] = (),
        request_id: str | None = None,
    ) -> pb.Session:
        """Start a conversation whose answers are drawn from the documents.

        The same *request_id* returns the session that the first call made.
        """
        request = pb.CreateSessionRequest(
            request_id=request_id or new_request_id(),
            title=title,
            mode=mode,
            metadata=metadata or {},
            document_ids=document_ids,
        )
        return (await self._connection.call(self._stub.CreateSession, request)).session

    async def get(self, session_id: str) -> pb.Session:
        """Return a session, an archived one too; raises NotFound."""
        request = pb.GetSessionRequest(session_id=session_id)
        return (await self._connection.call(self._stub.GetSession, request)).session

    async def list(self, *, page_size: int = 0) -> AsyncIterator[pb.Session]:
        """Iterate over the caller's sessions, newest first; pages are fetched as needed."""
        request = pb.ListSessionsRequest(page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListSessions, request)
            for session in page.sessions:
                yield session
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete(self, session_id: str, *, request_id: str | None = None) -> None:
        """Remove a session with its turns and messages; ends what runs in it."""
        request = pb.DeleteSessionRequest(
            session_id=session_id, request_id=request_id or new_request_id()
        )
        await self._connection.call(self._stub.DeleteSession, request)

    async def messages(self, session_id: str, *, page_size: int = 0) -> AsyncIterator[Message]:
        """Iterate over a session's messages, newest first; pages are fetched as needed."""
        request = pb.ListMessagesRequest(session_id=session_id, page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListMessages, request)
            for message in page.messages:
                yield message
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
