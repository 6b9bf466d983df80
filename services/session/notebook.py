"""Notes and bookmarks as callers use them: add, list, delete."""

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.message_pb2 import Message
from services.session import notes
from services.session.annotations import Annotations
from services.session.archive import Archive
from services.session.ids import Ids, checked, checked_message
from services.session.limits import Most
from services.session.listing import DEFAULT_PAGE
from services.session.live import LiveSessions, owned
from services.session.model import Caller, Draft, window_position
from services.session.operations import once
from services.session.ports import Reads
from services.session.publisher import Publisher


class Notebook:
    """What callers keep beside a session. Raises the errors of `errors` and Unavailable."""

    def __init__(
        self,
        *,
        annotations: Annotations,
        live: LiveSessions,
        archive: Archive,
        publisher: Publisher,
        ids: Ids,
        most: Most,
    ) -> None:
        self._annotations = annotations
        self._live = live
        self._archive = archive
        self._publisher = publisher
        self._ids = ids
        self._most = most

    async def add_note(
        self, caller: Caller, request: pb.AddNoteRequest
    ) -> tuple[pb.Note, pb.Session]:
        """Add the note, once for each request id."""
        note_id = self._ids.note(request.session_id, request.request_id)
        return await self._annotations.changed(
            caller,
            request.session_id,
            lambda draft: notes.add_note(draft, request, note_id, self._most),
            request.request_id,
        )

    async def delete_note(self, caller: Caller, request: pb.DeleteNoteRequest) -> pb.Session:
        """Delete the note; deleting again changes nothing."""
        note_id = checked("note_id", request.note_id)
        _, session = await self._annotations.changed(
            caller,
            request.session_id,
            lambda draft: once(draft, request, lambda: notes.delete_note(draft, note_id)),
            request.request_id,
        )
        return session

    async def list_notes(
        self, caller: Caller, request: pb.ListNotesRequest
    ) -> tuple[list[pb.Note], str]:
        """Return a page of notes, oldest first, and the next page's token."""
        draft = await self._annotations.read(caller, request.session_id)
        limit = request.page_size or DEFAULT_PAGE
        return notes.page_of(draft.kept_annotations.notes, request.page_token, limit)

    async def add_bookmark(
        self, caller: Caller, request: pb.AddBookmarkRequest
    ) -> tuple[pb.Bookmark, pb.Session]:
        """Add a bookmark of a message of the session, once for each request id."""
        checked("session_id", request.session_id)
        checked_message(request.message_id)
        bookmark_id = self._ids.bookmark(request.session_id, request.request_id)
        known: Message | None = None

        async def prepare(draft: Draft) -> None:
            # In this order: what leaves the window between the two is in the archive.
            nonlocal known
            owned(draft.session, request.session_id, caller.tenant, caller.user)
            known = draft.messages.get(request.message_id)
            if known is None:
                known = await self._older(draft, request.message_id)

        def decide(draft: Draft) -> tuple[pb.Bookmark, pb.Session]:
            bookmark = notes.add_bookmark(draft, request, bookmark_id, known, self._most)
            return bookmark, draft.record.session

        reads = Reads(annotations=True, window=True, operation=request.request_id)
        result, draft = await self._live.transact(request.session_id, decide, reads, prepare)
        self._publisher.after(draft)
        return result

    async def _older(self, draft: Draft, message_id: str) -> Message | None:
        """Return a message that has left the window."""
        found = await self._archive.message(draft.session_id, message_id)
        return found if found is not None and found.position < window_position(draft) else None

    async def delete_bookmark(
        self, caller: Caller, request: pb.DeleteBookmarkRequest
    ) -> pb.Session:
        """Delete the bookmark; deleting again changes nothing."""
        bookmark_id = checked("bookmark_id", request.bookmark_id)
        _, session = await self._annotations.changed(
            caller,
            request.session_id,
            lambda draft: once(draft, request, lambda: notes.delete_bookmark(draft, bookmark_id)),
            request.request_id,
        )
        return session

    async def list_bookmarks(
        self, caller: Caller, request: pb.ListBookmarksRequest
    ) -> tuple[list[pb.Bookmark], str]:
        """Return a page of bookmarks, oldest first, and the next page's token."""
        draft = await self._annotations.read(caller, request.session_id)
        limit = request.page_size or DEFAULT_PAGE
        return notes.page_of(draft.kept_annotations.bookmarks, request.page_token, limit)
