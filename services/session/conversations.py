"""Sessions: create, get, update, end, delete."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from maieutic.bus.v1.bus_pb2 import SessionDeleted
from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.budget_pb2 import Budget, Spending
from services.runtime.first_outcome import NotCarriedOut
from services.session.archive import Archive
from services.session.errors import (
    RequestIdTaken,
    SessionDeleted as WasDeleted,
    session_not_found,
)
from services.session.ids import Ids, checked, document_set_id
from services.session.limits import SessionLimits
from services.session.listing import show_expiry
from services.session.live import LiveSessions, owned
from services.session.model import Caller, Draft, next_stamp, timestamp
from services.session.operations import done_before, done_now, request_hash
from services.session.ports import Reads, SessionStore
from services.session.publisher import Publisher
from services.session.spending import accounted, known_here, set_budget
from services.session.updating import (
    check_mask,
    end,
    is_past,
    needs_accounts,
    touch,
    update,
    updated_before,
)

Change = TypeVar("Change", pb.UpdateSessionRequest, pb.EndSessionRequest, pb.TouchSessionRequest)


class _Past(Exception):
    """The standing session was ended or deleted meanwhile: the next one takes its place."""


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
        limits: SessionLimits,
        budget: Budget | None,
    ) -> None:
        self._store = store
        self._live = live
        self._archive = archive
        self._publisher = publisher
        self._ids = ids
        self._limits = limits
        self._budget = budget
        """Of a session whose request names none."""

    async def create(
        self, caller: Caller, request: pb.CreateSessionRequest, *, anew: bool = True
    ) -> pb.Session:
        """Create the session, or return the one that this request id created.

        Raises NotCarriedOut if there is none and it may not be created, *anew*.
        """
        session_id = self._ids.session(caller.tenant, caller.user, request.request_id)
        self._limits.check_metadata(request.metadata)
        digest = _request_hash(request)

        def decide(draft: Draft) -> pb.Session:
            if draft.session is not None:
                return _created_before(draft, digest)
            if not anew:
                raise NotCarriedOut
            session = _make(draft, caller, request, digest, default=self._budget)
            done_now(draft, request.request_id, digest)
            return session

        prepare = self._making_room(caller) if anew else None
        session, draft = await self._live.transact(
            session_id, decide, Reads(operation=request.request_id), prepare
        )
        if not draft.session_changed:
            await self._show_expiry(session)
        self._publisher.after(draft)
        return session

    def _making_room(self, caller: Caller) -> Callable[[Draft], Awaitable[None]]:
        """Return what runs before a session is made.

        The list comes first: a session that nobody can list would be lost, an entry without a
        session is dropped by the next listing.
        """

        async def prepare(draft: Draft) -> None:
            if draft.session is None:
                await self._limits.require_room(caller)
                await self._store.list_add(caller.key, draft.session_id, draft.now_ms)

        return prepare

    async def get_or_create(
        self, caller: Caller, request: pb.GetOrCreateSessionRequest
    ) -> tuple[pb.Session, bool]:
        """Return the caller's standing session over the documents, and whether it is new."""
        self._limits.check_metadata(request.metadata)
        generation = await self._first_usable(caller, document_set_id(request.document_ids))
        while True:
            try:
                return await self._standing(caller, request, generation)
            except _Past:
                generation += 1

    async def _standing(
        self, caller: Caller, request: pb.GetOrCreateSessionRequest, generation: int
    ) -> tuple[pb.Session, bool]:
        set_id = document_set_id(request.document_ids)
        session_id = self._ids.standing(caller.tenant, caller.user, set_id, generation)

        def decide(draft: Draft) -> tuple[pb.Session, bool]:
            if draft.session is None:
                return _make(draft, caller, request, b"", default=self._budget, set_id=set_id), True
            if is_past(draft.session.session, deleted=draft.session.tombstone):
                raise _Past
            return draft.session.session, False

        (session, created), draft = await self._live.transact(
            session_id, decide, prepare=self._making_room(caller)
        )
        if not created:
            await self._show_expiry(session)
        self._publisher.after(draft)
        return session, created

    async def _first_usable(self, caller: Caller, set_id: str) -> int:
        """Return the first generation that was neither ended nor deleted, or not made yet.

        One is made only when all before it are past, and what is past stays so: the sessions of a
        set that was deleted a thousand times are found with twenty looks.
        """

        async def past(generation: int) -> bool:
            session_id = self._ids.standing(caller.tenant, caller.user, set_id, generation)
            record = await self._store.session(session_id)
            if record is not None:
                return is_past(record.session, deleted=record.tombstone)
            snapshot = await self._archive.snapshot(session_id)
            return is_past(snapshot.session, deleted=snapshot.deleted)

        low, high = -1, 0
        while await past(high):
            low, high = high, 2 * high + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if await past(middle) else (low, middle)
        return high

    async def _show_expiry(self, session: pb.Session) -> None:
        show_expiry(session, await self._store.keep_alive(session.session_id))

    async def get(self, caller: Caller, session_id: str) -> pb.Session:
        """Return the caller's session, live or brought back from the archive."""
        checked("session_id", session_id)
        record, left = await self._store.session_and_time_left(session_id)
        if record is None:
            back, _ = await self._live.transact(
                session_id, lambda d: owned(d.session, session_id, caller.tenant, caller.user)
            )
            await self._show_expiry(back.session)
            return back.session
        session = owned(record, session_id, caller.tenant, caller.user).session
        show_expiry(session, await self._store.keep_alive(session_id, left))
        return session

    async def update(
        self, caller: Caller, request: pb.UpdateSessionRequest, *, anew: bool = True
    ) -> pb.Session:
        """Change the fields that the request names.

        Raises NotCarriedOut if this was not done before and may not be, *anew*.
        """
        checked("session_id", request.session_id)
        if not anew:
            return await self._changed(caller, request, updated_before)
        check_mask(request)
        self._limits.check_metadata(request.metadata)
        if request.HasField("budget"):
            return await self._bound(caller, request)
        return await self._changed(caller, request, update)

    async def _bound(self, caller: Caller, request: pb.UpdateSessionRequest) -> pb.Session:
        """Change a session, its budget among others, which counts what was consumed before."""
        spent: Spending | None = None

        async def prepare(draft: Draft) -> None:
            nonlocal spent
            spent = await self._spent(draft, request) if needs_accounts(draft, request) else None

        def change(draft: Draft, request: pb.UpdateSessionRequest) -> pb.Session:
            return update(draft, request, spent)

        return await self._changed(caller, request, change, prepare)

    async def _spent(self, draft: Draft, request: pb.UpdateSessionRequest) -> Spending:
        """Return what a session without a budget, or with one in other money, has consumed."""
        found = await self._store.turns(draft.record.unarchived_turn_ids)
        here = known_here(turn for turn in found if turn is not None)
        ids = [turn.job.turn_id for turn in here]
        # Read after the turns: one that is archived meanwhile is left out there.
        accounts = await self._archive.statistics(draft.session_id, ids)
        return accounted(request.budget, accounts, here)

    async def end(self, caller: Caller, request: pb.EndSessionRequest) -> pb.Session:
        """Let no more turns begin in the session; ending again changes nothing."""
        return await self._changed(caller, request, end)

    async def touch(self, caller: Caller, request: pb.TouchSessionRequest) -> pb.Session:
        """Put the session's expiry off."""
        return await self._changed(caller, request, touch)

    async def _changed(
        self,
        caller: Caller,
        request: Change,
        change: Callable[[Draft, Change], pb.Session],
        prepare: Callable[[Draft], Awaitable[None]] | None = None,
    ) -> pb.Session:
        session_id = checked("session_id", request.session_id)

        def decide(draft: Draft) -> pb.Session:
            owned(draft.session, session_id, caller.tenant, caller.user)
            return change(draft, request)

        # What is prepared is this call's own: nobody else's carries it along with so much to read.
        reads = Reads(operation=request.request_id, running=prepare is not None)
        session, draft = await self._live.transact(session_id, decide, reads, prepare)
        self._publisher.after(draft)
        return session

    async def delete(self, caller: Caller, request: pb.DeleteSessionRequest) -> None:
        """Delete the session everywhere; deleting again succeeds."""
        session_id = checked("session_id", request.session_id)

        def decide(draft: Draft) -> None:
            if draft.session is not None and draft.session.tombstone:
                _same_owner(draft.session, session_id, caller)
                return
            record = owned(draft.session, session_id, caller.tenant, caller.user)
            done_before(draft, request_hash(request))  # refuses the id of another request
            _bury(draft, record)

        reads = Reads(operation=request.request_id)
        _, draft = await self._live.transact(session_id, decide, reads)
        await self._store.list_remove(caller.key, [session_id])
        self._publisher.after(draft)


def _request_hash(request: pb.CreateSessionRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _created_before(draft: Draft, digest: bytes) -> pb.Session:
    record = draft.record
    if record.tombstone:
        raise WasDeleted
    # A session that came back from the archive has lost the hash: the marker has it for a day,
    # and later the session's id is proof enough.
    if record.request_hash not in (b"", digest):
        raise RequestIdTaken
    done_before(draft, digest)
    return record.session


def _make(
    draft: Draft,
    caller: Caller,
    request: pb.CreateSessionRequest | pb.GetOrCreateSessionRequest,
    digest: bytes,
    *,
    default: Budget | None,
    set_id: str = "",
) -> pb.Session:
    budget = request.budget if request.HasField("budget") else default
    session = pb.Session(
        session_id=draft.session_id,
        user_id=caller.user,
        title=request.title,
        mode=request.mode or pb.SESSION_MODE_DIRECT,
        metadata=request.metadata,
        document_ids=request.document_ids,
        document_set_id=set_id,
        create_time=timestamp(draft.now_ms),
    )
    if budget is not None:
        set_budget(session, budget, Spending())
    draft.session = SessionRecord(
        tenant=caller.tenant, session=session, request_hash=digest, next_position=1
    )
    draft.touch()
    draft.tell_session()
    return draft.session.session


def _same_owner(record: SessionRecord, session_id: str, caller: Caller) -> None:
    if (record.tenant, record.session.user_id) != (caller.tenant, caller.user):
        raise session_not_found(session_id)


def _bury(draft: Draft, record: SessionRecord) -> None:
    """Leave a tombstone; turns, logs and clock entries go with the session."""
    turns = {entry.turn_id for entry in record.window}
    turns |= {*record.unarchived_turn_ids, *record.waiting_turn_ids}
    turns.discard("")  # of messages that came from the parent of a branch
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
