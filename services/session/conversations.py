"""Sessions: create, get, list, delete, and their messages as one list."""

import hashlib
import time
from dataclasses import dataclass

from maieutic.bus.v1.bus_pb2 import SessionChanged, SessionDeleted
from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.message_pb2 import Message
from services.session.archive import Archive
from services.session.errors import (
    RequestIdTaken,
    SessionDeleted as WasDeleted,
    session_not_found,
)
from services.session.ids import Ids, checked
from services.session.live import LiveSessions, owned
from services.session.model import Draft, milliseconds, next_stamp, timestamp
from services.session.paging import (
    page_of_messages,
    page_of_sessions,
    parse_place,
    parse_position,
    place_of,
)
from services.session.ports import SessionStore
from services.session.publisher import Publisher

DEFAULT_PAGE = 50
MAKING_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The tenant and user that a call is for."""

    tenant: str
    user: str

    @property
    def key(self) -> str:
        """The owner of a list of sessions."""
        return f"{self.tenant}\x00{self.user}"


class Conversations:
    """What callers do with sessions. Raises the errors of `errors` and Unavailable."""

    def __init__(
        self,
        *,
        store: SessionStore,
        live: LiveSessions,
        archive: Archive,
        publisher: Publisher,
        ids: Ids,
    ) -> None:
        self._store = store
        self._live = live
        self._archive = archive
        self._publisher = publisher
        self._ids = ids

    async def create(self, caller: Caller, request: pb.CreateSessionRequest) -> pb.Session:
        """Create the session, or return the one that this request id created."""
        session_id = self._ids.session(caller.tenant, caller.user, request.request_id)
        digest = _request_hash(request)
        # The list comes first: a session that nobody can list would be lost, an entry without a
        # session is dropped by the next listing.
        created_ms = time.time_ns() // 1_000_000
        await self._store.list_add(caller.key, session_id, created_ms)

        def decide(draft: Draft) -> pb.Session:
            if draft.session is not None:
                return _created_before(draft.session, digest)
            draft.session = _new_session(caller, request, digest, session_id, created_ms)
            draft.touch()
            draft.remember(SessionChanged(tenant=caller.tenant, session=draft.session.session))
            return draft.session.session

        session, draft = await self._live.transact(session_id, decide)
        if (first := milliseconds(session.create_time)) != created_ms:
            await self._store.list_add(caller.key, session_id, first)
        self._publisher.after(draft)
        return session

    async def get(self, caller: Caller, session_id: str) -> pb.Session:
        """Return the caller's session, live or brought back from the archive."""
        checked("session_id", session_id)
        record = await self._store.session(session_id)
        if record is None:
            record, _ = await self._live.transact(
                session_id, lambda d: owned(d.session, session_id, caller.tenant, caller.user)
            )
        session = owned(record, session_id, caller.tenant, caller.user).session
        await self._store.keep_alive(session_id)
        return session

    async def page(
        self, caller: Caller, page_size: int, page_token: str
    ) -> tuple[list[pb.Session], str]:
        """Return a page of the caller's sessions, newest first, and the next page's token."""
        limit = page_size or DEFAULT_PAGE
        before = parse_place(page_token)
        places = await self._store.list_page(caller.key, before, limit + 1)
        archived, more = await self._archive.sessions(caller.tenant, caller.user, before, limit + 1)
        # Those that the archive lists are looked up, too: one may have been deleted just now.
        ids = list({sid for _, sid in places} | {s.session_id for s in archived})
        records = dict(zip(ids, await self._store.sessions(ids), strict=True))
        # A session that is being made right now is on the list before it has a record.
        settled = time.time_ns() // 1_000_000 - MAKING_MS
        gone = [sid for created, sid in places if not _lives(records[sid]) and created < settled]
        await self._store.list_remove(caller.key, gone)
        # A source that has more is known only down to its last place, and so is the whole.
        ends = [places[-1]] if len(places) > limit else []
        ends += [place_of(archived[-1])] if more else []
        return page_of_sessions(_merged(records, archived), max(ends, default=None), limit)

    async def delete(self, caller: Caller, session_id: str) -> None:
        """Delete the session everywhere; deleting again succeeds."""
        checked("session_id", session_id)

        def decide(draft: Draft) -> None:
            if draft.session is not None and draft.session.tombstone:
                _same_owner(draft.session, session_id, caller)
                return
            _bury(draft, owned(draft.session, session_id, caller.tenant, caller.user))

        _, draft = await self._live.transact(session_id, decide)
        await self._store.list_remove(caller.key, [session_id])
        self._publisher.after(draft)

    async def messages(
        self, caller: Caller, session_id: str, page_size: int, page_token: str
    ) -> tuple[list[Message], str]:
        """Return a page of messages, newest first: the window and the archive as one list."""
        await self.get(caller, session_id)
        limit = page_size or DEFAULT_PAGE
        before = parse_position(page_token)
        window = [
            m for m in await self._store.window(session_id) if not before or m.position < before
        ]
        found = {message.message_id: message for message in window}
        end = None
        if len(found) <= limit and not any(message.position == 1 for message in window):
            archived, more = await self._archive.messages(session_id, before, limit + 1)
            found = {message.message_id: message for message in archived} | found
            end = archived[-1].position if more else None
        return page_of_messages(list(found.values()), end, limit)


def _request_hash(request: pb.CreateSessionRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _created_before(record: SessionRecord, digest: bytes) -> pb.Session:
    if record.tombstone:
        raise WasDeleted
    # A session that came back from the archive has lost the hash: its id is proof enough.
    if record.request_hash and record.request_hash != digest:
        raise RequestIdTaken
    return record.session


def _new_session(
    caller: Caller, request: pb.CreateSessionRequest, digest: bytes, session_id: str, now_ms: int
) -> SessionRecord:
    session = pb.Session(
        session_id=session_id,
        user_id=caller.user,
        title=request.title,
        mode=request.mode or pb.SESSION_MODE_DIRECT,
        metadata=request.metadata,
        document_ids=request.document_ids,
        revision=next_stamp(0, now_ms) - 1,
        create_time=timestamp(now_ms),
    )
    return SessionRecord(
        tenant=caller.tenant, session=session, request_hash=digest, next_position=1
    )


def _same_owner(record: SessionRecord, session_id: str, caller: Caller) -> None:
    if (record.tenant, record.session.user_id) != (caller.tenant, caller.user):
        raise session_not_found(session_id)


def _bury(draft: Draft, record: SessionRecord) -> None:
    """Leave a tombstone; turns, logs and clock entries go with the session."""
    turns = {entry.turn_id for entry in record.window}
    turns |= {*record.unarchived_turn_ids, *record.waiting_turn_ids}
    for turn_id in turns:
        draft.turns_removed.add(turn_id)
        draft.due[turn_id] = None
    draft.session = SessionRecord(tenant=record.tenant, tombstone=True)
    draft.session.session.session_id = draft.session_id
    draft.session.session.user_id = record.session.user_id
    draft.session.session.revision = next_stamp(record.session.revision, draft.now_ms)
    draft.session_changed = True
    deleted = SessionDeleted(
        tenant=record.tenant,
        user_id=record.session.user_id,
        session_id=draft.session_id,
        delete_time=timestamp(draft.now_ms),
    )
    draft.remember(deleted)


def _lives(record: SessionRecord | None) -> bool:
    return record is not None and not record.tombstone


def _merged(
    records: dict[str, SessionRecord | None], archived: list[pb.Session]
) -> list[pb.Session]:
    """Return live and archived sessions, newest first, without those that are deleted here."""
    merged = {s.session_id: s for s in archived if records[s.session_id] is None}
    for session_id, record in records.items():
        if record is not None and not record.tombstone:
            merged[session_id] = record.session
    return sorted(merged.values(), key=place_of, reverse=True)
