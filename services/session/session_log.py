"""A session and the log of what happens in it, as one watcher after another reads them."""

import asyncio
import contextvars
from collections.abc import Sequence

from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1.session_service_pb2 import (
    SessionFrame,
    SessionGap,
    SessionRemoved,
    SessionSnapshot,
)
from services.runtime import names, telemetry
from services.session.happenings import Place, current, snapshot
from services.session.model import LIVE, PROVISIONAL, Draft, EventId
from services.session.observing import StoreOperation, operating
from services.session.ports import SessionLook, SessionStore

FRAMES_AT_ONCE = 100
"""Most that is held for a watcher: the rest waits in the log until this was taken."""
LOOKS_FOR_SNAPSHOT = 10
"""Within so many looks a session is met between two ends of turns."""


class SharedLooks:
    """Watchers that look at the same place in the same moment are answered by one reading."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._context = contextvars.copy_context()
        """The service's own: no watcher's deadline counts for the others."""
        self._asked: dict[tuple[str, EventId | None], asyncio.Task[SessionLook]] = {}

    async def at(self, session_id: str, since: EventId | None) -> SessionLook:
        """Return what `look_at_session` would, read after this was called."""
        asked = (session_id, since)
        if (task := self._asked.get(asked)) is None:
            task = asyncio.create_task(self._look(asked), context=self._context.copy())
            self._asked[asked] = task
        return await asyncio.shield(task)

    async def _look(self, asked: tuple[str, EventId | None]) -> SessionLook:
        del self._asked[asked]  # whoever asks from now on may know of more
        with operating(StoreOperation.EVENTS):
            return await self._store.look_at_session(*asked, FRAMES_AT_ONCE)


class SessionLog:
    """A session and its log as one watcher reads them: never silent about what is missing."""

    def __init__(
        self, store: SessionStore, looks: SharedLooks, session_id: str, place: Place | None
    ) -> None:
        self._store = store
        self._looks = looks
        self._place = place
        self.session_id = session_id
        self.has_more = False
        """Whether there may be more frames now."""
        self.away = False
        """Whether the session was not in the live store at the last look."""
        self.ended = False
        """Whether the last frame of all was told."""

    async def next(self) -> Sequence[SessionFrame]:
        """Return the next frames, with their cursors."""
        self.has_more = False
        place = self._place
        look = await self._looks.at(self.session_id, place.entry if place else None)
        self.away = look.record is None
        if look.record is None:
            return []
        if look.record.tombstone:
            return [self.deleted()]
        if place is None or not _goes_on(look, place.entry):
            return await self._from_now_on(gap=place is not None)
        return self._new(look.entries[1:], look.record, place)

    def silence(self) -> SessionFrame:
        """Return the frame of a stream on which nothing happens."""
        return self._told(SessionFrame())

    def deleted(self) -> SessionFrame:
        """Return the last frame."""
        self.ended = True
        return self._told(SessionFrame(session_deleted=SessionRemoved()))

    def _new(
        self,
        entries: Sequence[tuple[EventId, SessionFrame | None]],
        record: SessionRecord,
        place: Place,
    ) -> list[SessionFrame]:
        """Return what came after a place; the session's state only once nothing else waits."""
        frames = []
        for entry, frame in entries:
            place = self._place = Place(entry, place.revision)
            if frame is not None and frame.WhichOneof("event"):
                frames.append(self._told(frame))
        self.has_more = len(entries) + 1 == FRAMES_AT_ONCE
        if self.has_more or record.session.revision == place.revision:
            return frames
        self._place = Place(place.entry, record.session.revision)
        return [*frames, self._told(SessionFrame(session_changed=current(record)))]

    async def _from_now_on(self, *, gap: bool) -> list[SessionFrame]:
        standing = await self._standing()
        if standing is None:
            return []
        if not gap:
            return [self._told(SessionFrame(snapshot=standing))]
        telemetry.current().counter(names.SESSION_STREAM_GAPS).add(1)
        return [self._told(SessionFrame(gap=SessionGap(snapshot=standing)))]

    async def _standing(self) -> SessionSnapshot | None:
        """Return how the session stands at the end of its log, and go on from there.

        None if it has just left: the next look says more.
        """
        for left in reversed(range(LOOKS_FOR_SNAPSHOT)):
            look = await self._store.look_at_session(self.session_id, None, 1)
            record = look.record
            if record is None or record.tombstone:
                return None
            if not look.entries:
                await self._begin()
                continue
            turns = await self._turns(record)
            live = [turn for turn in turns if turn.phase in LIVE | {PROVISIONAL}]
            if len(live) == len(turns) or not left:  # else one has ended since the look
                self._place = Place(look.entries[0][0], record.session.revision)
                return snapshot(record, live)
        return None

    async def _turns(self, record: SessionRecord) -> list[TurnRecord]:
        active = record.session.active_turn_id
        ids = [active] if active else []
        found = await self._store.turns([*ids, *record.waiting_turn_ids, *record.side_turn_ids])
        return [turn for turn in found if turn is not None]

    async def _begin(self) -> None:
        """Begin the log, which a session that nobody has watched does not have."""

        def decide(draft: Draft) -> None:
            if draft.session is not None and not draft.session.tombstone:
                draft.begin_log()

        await self._store.transact(self.session_id, decide)

    def _told(self, frame: SessionFrame) -> SessionFrame:
        """Return this watcher's own copy of a frame, which leads to the place after it."""
        told = SessionFrame()
        told.CopyFrom(frame)
        told.cursor = self._place.cursor(self.session_id) if self._place is not None else ""
        return told


def _goes_on(look: SessionLook, since: EventId) -> bool:
    """Whether the log still has the entry that was told last, and all after it can be read."""
    if not look.entries or look.entries[0][0] != since:
        return False
    return all(frame is not None for _, frame in look.entries[1:])
