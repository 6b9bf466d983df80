"""Notes and bookmarks: what a user keeps beside a conversation. Pure."""

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.message_pb2 import Message
from services.session.errors import LimitReached, RequestIdTaken, message_not_found
from services.session.limits import Most
from services.session.model import Draft, milliseconds, timestamp
from services.session.operations import done_before, done_now, request_hash
from services.session.paging import OLDEST_FIRST, Place

Kept = TypeVar("Kept", pb.Note, pb.Bookmark)


def add_note(draft: Draft, request: pb.AddNoteRequest, note_id: str, most: Most) -> pb.Note:
    """Keep the note; a request that was carried out adds none, even if its note is deleted now.

    Raises LimitReached and RequestIdTaken.
    """
    kept, digest = draft.kept_annotations.notes, request_hash(request)
    note = pb.Note(note_id=note_id, text=request.text, create_time=_time_of(draft))
    if done_before(draft, digest):
        return note
    known = next((other for other in kept if other.note_id == note_id), None)
    if known is not None:  # the marker was lost with the live store, the note was not
        if known.text != request.text:
            raise RequestIdTaken
        return known
    if len(kept) >= most.notes_per_session:
        raise LimitReached("notes_per_session", most.notes_per_session, "notes in one session")
    kept.append(note)
    _changed(draft)
    done_now(draft, request.request_id, digest)
    return note


def delete_note(draft: Draft, note_id: str) -> None:
    """Remove the note, if it is there."""
    kept = draft.kept_annotations.notes
    left = [note for note in kept if note.note_id != note_id]
    if len(left) == len(kept):
        return
    draft.kept_annotations.ClearField("notes")
    draft.kept_annotations.notes.extend(left)
    _changed(draft)


def add_bookmark(
    draft: Draft,
    request: pb.AddBookmarkRequest,
    bookmark_id: str,
    message: Message | None,
    most: Most,
) -> pb.Bookmark:
    """Keep the place of the message; a request that was carried out adds no second bookmark.

    Its message may be undone since, and None then. Raises NotFound, LimitReached, RequestIdTaken.
    """
    kept, digest = draft.kept_annotations.bookmarks, request_hash(request)
    known = next((other for other in kept if other.bookmark_id == bookmark_id), None)
    if known is not None:
        if (known.message_id, known.label) != (request.message_id, request.label):
            raise RequestIdTaken
        return known
    if message is None:
        raise message_not_found(request.message_id)
    bookmark = pb.Bookmark(
        bookmark_id=bookmark_id,
        message_id=message.message_id,
        label=request.label,
        create_time=_time_of(draft),
        position=message.position,
        # A page of messages begins below the position in its token.
        page_token=str(message.position + 1),
    )
    if done_before(draft, digest):
        return bookmark
    if len(kept) >= most.bookmarks_per_session:
        limit = most.bookmarks_per_session
        raise LimitReached("bookmarks_per_session", limit, "bookmarks in one session")
    kept.append(bookmark)
    _changed(draft)
    done_now(draft, request.request_id, digest)
    return bookmark


def delete_bookmark(draft: Draft, bookmark_id: str) -> None:
    """Remove the bookmark, if it is there."""
    kept = draft.kept_annotations.bookmarks
    left = [bookmark for bookmark in kept if bookmark.bookmark_id != bookmark_id]
    if len(left) == len(kept):
        return
    draft.kept_annotations.ClearField("bookmarks")
    draft.kept_annotations.bookmarks.extend(left)
    _changed(draft)


def _changed(draft: Draft) -> None:
    draft.annotate()
    draft.tell_session()


def page_of(kept: Iterable[Kept], page_token: str, limit: int) -> tuple[list[Kept], str]:
    """Return a page, oldest first, and the next one's token. Raises BadPageToken."""
    after = OLDEST_FIRST.parse(page_token)
    ordered = sorted((one for one in kept if after is None or _place(one) > after), key=_place)
    page = ordered[:limit]
    return page, OLDEST_FIRST.token(_place(page[-1]) if len(ordered) > limit else None)


def _place(one: pb.Note | pb.Bookmark) -> Place:
    name = one.note_id if isinstance(one, pb.Note) else one.bookmark_id
    return Place(milliseconds(one.create_time), name)


def _time_of(draft: Draft) -> Timestamp:
    """Return when the request was carried out: now, or before."""
    before = draft.operation.time_ms if draft.operation is not None else 0
    return timestamp(before or draft.now_ms)
