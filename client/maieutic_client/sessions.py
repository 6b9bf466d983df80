"""Conversations."""

from collections.abc import AsyncIterator, Iterable, Mapping

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2_grpc import SessionServiceStub
from maieutic_client.connection import Connection, new_request_id
from maieutic_client.session_ids import SessionLike, session_id_of
from maieutic_client.session_stream import SessionStream


class Sessions:
    """`client.sessions`. A session may be given in any of the shapes of `session_id_of`."""

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
        budget: Budget | None = None,
        request_id: str | None = None,
    ) -> pb.Session:
        """Start a conversation whose answers are drawn from the documents.

        *budget* is what its turns may consume together. The same *request_id* returns the session
        that the first call made.
        """
        request = pb.CreateSessionRequest(
            request_id=request_id or new_request_id(),
            title=title,
            mode=mode,
            metadata=metadata or {},
            document_ids=document_ids,
            budget=budget,
        )
        return (await self._connection.call(self._stub.CreateSession, request)).session

    async def get_or_create(
        self,
        document_ids: Iterable[str] = (),
        *,
        title: str = "",
        mode: pb.SessionMode.ValueType = pb.SESSION_MODE_UNSPECIFIED,
        metadata: Mapping[str, str] | None = None,
        budget: Budget | None = None,
    ) -> pb.Session:
        """Return the caller's standing session over a set of documents, made if need be.

        *title*, *mode*, *metadata* and *budget* are for a session that is made now.
        """
        request = pb.GetOrCreateSessionRequest(
            document_ids=document_ids,
            title=title,
            mode=mode,
            metadata=metadata or {},
            budget=budget,
        )
        return (await self._connection.call(self._stub.GetOrCreateSession, request)).session

    async def get(self, session: SessionLike) -> pb.Session:
        """Return a session, an archived one too; raises NotFound."""
        request = pb.GetSessionRequest(session_id=session_id_of(session))
        return (await self._connection.call(self._stub.GetSession, request)).session

    async def list(
        self,
        *,
        order: pb.SessionOrder.ValueType = pb.SESSION_ORDER_UNSPECIFIED,
        matching: pb.SessionFilter | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[pb.Session]:
        """Iterate over the caller's sessions that fit; pages are fetched as needed.

        Without an *order*, the newest come first.
        """
        request = pb.ListSessionsRequest(page_size=page_size, order=order, filter=matching)
        async for page in self._connection.pages(self._stub.ListSessions, request):
            for session in page.sessions:
                yield session

    async def update(
        self,
        session: SessionLike,
        *,
        title: str | None = None,
        mode: pb.SessionMode.ValueType | None = None,
        metadata: Mapping[str, str] | None = None,
        document_ids: Iterable[str] | None = None,
        budget: Budget | None = None,
        expected_revision: int = 0,
        request_id: str | None = None,
    ) -> pb.Session:
        """Change what is given, all of it or nothing; what is None stays as it is.

        An empty *budget* takes the session's away. With an *expected_revision*, raises
        RevisionMismatch if the session has another one by then.
        """
        request = pb.UpdateSessionRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            expected_revision=expected_revision,
            title=title or "",
            mode=mode or pb.SESSION_MODE_UNSPECIFIED,
            metadata=metadata,
            document_ids=document_ids,
            budget=None if budget == Budget() else budget,
        )
        given = {
            "title": title,
            "mode": mode,
            "metadata": metadata,
            "document_ids": document_ids,
            "budget": budget,
        }
        request.update_mask.paths.extend(name for name, value in given.items() if value is not None)
        return (await self._connection.call(self._stub.UpdateSession, request)).session

    async def branch(
        self,
        session: SessionLike,
        message_id: str,
        *,
        title: str = "",
        request_id: str | None = None,
    ) -> pb.Session:
        """Make a session that begins with this one's messages up to one of them.

        It goes its own way from there. The same *request_id* returns the first call's branch.
        """
        request = pb.BranchSessionRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            message_id=message_id,
            title=title,
        )
        return (await self._connection.call(self._stub.BranchSession, request)).session

    async def statistics(self, session: SessionLike) -> pb.SessionStatistics:
        """Return what a session has consumed so far."""
        request = pb.GetSessionStatisticsRequest(session_id=session_id_of(session))
        return (await self._connection.call(self._stub.GetSessionStatistics, request)).statistics

    def watch(
        self, session: SessionLike, *, cursor: str = "", timeout: float | None = None
    ) -> SessionStream:
        """Stream what happens in a session, from after *cursor* on, or from now on.

        Its first frame is a snapshot then. *timeout* is the seconds that this caller watches it;
        the text of a turn is streamed by `turns.watch`.
        """
        return SessionStream(
            self._connection, self._stub, session_id_of(session), cursor=cursor, timeout=timeout
        )

    async def end(self, session: SessionLike, *, request_id: str | None = None) -> pb.Session:
        """Let no more turns begin in the session; it stays readable."""
        request = pb.EndSessionRequest(
            session_id=session_id_of(session), request_id=request_id or new_request_id()
        )
        return (await self._connection.call(self._stub.EndSession, request)).session

    async def touch(self, session: SessionLike, *, request_id: str | None = None) -> pb.Session:
        """Use the session now, so that it expires later."""
        request = pb.TouchSessionRequest(
            session_id=session_id_of(session), request_id=request_id or new_request_id()
        )
        return (await self._connection.call(self._stub.TouchSession, request)).session

    async def delete(self, session: SessionLike, *, request_id: str | None = None) -> None:
        """Remove a session with its turns and messages; ends what runs in it."""
        request = pb.DeleteSessionRequest(
            session_id=session_id_of(session), request_id=request_id or new_request_id()
        )
        await self._connection.call(self._stub.DeleteSession, request)

    async def messages(
        self,
        session: SessionLike,
        *,
        page_size: int = 0,
        page_token: str = "",
        order: pb.MessageOrder.ValueType = pb.MESSAGE_ORDER_UNSPECIFIED,
    ) -> AsyncIterator[Message]:
        """Iterate over a session's messages, newest first unless *order* says otherwise.

        Pages are fetched as needed. A bookmark's *page_token* begins with its message.
        """
        request = pb.ListMessagesRequest(
            session_id=session_id_of(session),
            page_size=page_size,
            page_token=page_token,
            order=order,
        )
        async for page in self._connection.pages(self._stub.ListMessages, request):
            for message in page.messages:
                yield message
