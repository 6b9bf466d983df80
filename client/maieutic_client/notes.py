"""What a user keeps beside a conversation: notes, and places to return to."""

from collections.abc import AsyncIterator

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.session_service_pb2_grpc import SessionServiceStub
from maieutic_client.connection import Connection, new_request_id
from maieutic_client.session_ids import SessionLike, session_id_of


class Notes:
    """`client.notes`. A session may be given in any of the shapes of `session_id_of`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = SessionServiceStub(connection.channel)

    async def add(
        self, session: SessionLike, text: str, *, request_id: str | None = None
    ) -> pb.Note:
        """Keep a text with the session. The same *request_id* returns the first call's note."""
        request = pb.AddNoteRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            text=text,
        )
        return (await self._connection.call(self._stub.AddNote, request)).note

    async def list(self, session: SessionLike, *, page_size: int = 0) -> AsyncIterator[pb.Note]:
        """Iterate over a session's notes, oldest first; pages are fetched as needed."""
        request = pb.ListNotesRequest(session_id=session_id_of(session), page_size=page_size)
        async for page in self._connection.pages(self._stub.ListNotes, request):
            for note in page.notes:
                yield note

    async def delete(
        self, session: SessionLike, note_id: str, *, request_id: str | None = None
    ) -> None:
        """Remove a note; deleting again succeeds."""
        request = pb.DeleteNoteRequest(
            session_id=session_id_of(session),
            note_id=note_id,
            request_id=request_id or new_request_id(),
        )
        await self._connection.call(self._stub.DeleteNote, request)


class Bookmarks:
    """`client.bookmarks`. A session may be given in any of the shapes of `session_id_of`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = SessionServiceStub(connection.channel)

    async def add(
        self,
        session: SessionLike,
        message_id: str,
        *,
        label: str = "",
        request_id: str | None = None,
    ) -> pb.Bookmark:
        """Keep the place of a message of the session.

        `client.sessions.messages(session, page_token=bookmark.page_token)` returns to it.
        """
        request = pb.AddBookmarkRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            message_id=message_id,
            label=label,
        )
        return (await self._connection.call(self._stub.AddBookmark, request)).bookmark

    async def list(self, session: SessionLike, *, page_size: int = 0) -> AsyncIterator[pb.Bookmark]:
        """Iterate over a session's bookmarks, oldest first; pages are fetched as needed."""
        request = pb.ListBookmarksRequest(session_id=session_id_of(session), page_size=page_size)
        async for page in self._connection.pages(self._stub.ListBookmarks, request):
            for bookmark in page.bookmarks:
                yield bookmark

    async def delete(
        self, session: SessionLike, bookmark_id: str, *, request_id: str | None = None
    ) -> None:
        """Remove a bookmark, not its message; deleting again succeeds."""
        request = pb.DeleteBookmarkRequest(
            session_id=session_id_of(session),
            bookmark_id=bookmark_id,
            request_id=request_id or new_request_id(),
        )
        await self._connection.call(self._stub.DeleteBookmark, request)
