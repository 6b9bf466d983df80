"""A session's stream: what happens in it from a cursor on, until it is deleted."""

import asyncio
import contextlib
import contextvars
import math
import time
import zlib
from collections.abc import AsyncIterator, Sequence

from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1.session_service_pb2 import (
    SessionFrame,
    SessionGap,
    SessionRemoved,
    SessionSnapshot,
)
from services.runtime import names, telemetry
from services.runtime.errors import Unavailable
from services.session.archive import Archive
from services.session.conversations import Conversations
from services.session.happenings import Place, current, snapshot
from services.session.ids import checked
from services.session.model import LIVE, PROVISIONAL, Caller, Draft, EventId
from services.session.observing import StoreOperation, operating
from services.session.ports import SessionLook, SessionStore
from services.session.watching import Wakes

FRAMES_AT_ONCE = 100
"""Most that is held for a watcher: the rest waits in the log until this was taken."""
LOOK_AGAIN_SECONDS = 1.0
"""Not every change wakes, and a wake-up may be lost: the session is looked at this often."""
LOOKS_FOR_SNAPSHOT = 10
"""Within so many looks a session is met between two ends of turns."""


class SessionWatching:
    """Streams sessions, at any replica and from any cursor."""

    def __init__(
        self,
        *,
        store: SessionStore,
        conversations: Conversations,
        archive: Archive,
        wakes: Wakes,
        heartbeat: float,
    ) -> None:
        """Say after *heartbeat* seconds without news that the stream is still there."""
        self._store = store
        self._conversations = conversations
        self._archive = archive
        self._wakes = wakes
        self._heartbeat = heartbeat
        self._looks = _SharedLooks(store)

    async def watch(
        self, caller: Caller, session_id: str, cursor: str
    ) -> AsyncIterator[SessionFrame]:
        """Yield the frames after *cursor*; `session_deleted` is the last. Raises BadCursor."""
        place = Place.parse(checked("session_id", session_id), cursor)
        await self._conversations.get(caller, session_id)
        log = _Log(self._store, self._looks, session_id, place)
        told_at = time.monotonic()
        async with self._wakes.listen_to_session(session_id) as wake:
            while not log.ended:
                wake.clear()
                frames = await log.next()
                if not frames and time.monotonic() - told_at >= self._heartbeat:
                    frames = [await self._still_there(log)]
                for frame in frames:
                    yield frame
                if frames:
                    told_at = time.monotonic()
                if not (log.has_more or log.ended):
                    await _woken(wake, session_id)

    async def _still_there(self, log: "_Log") -> SessionFrame:
        """Return a frame without an event; of a session that has left, ask the archive, too.

        The store may have lost a session together with the mark that it was deleted.
        """
        if log.away:
            with contextlib.suppress(Unavailable):
                if (await self._archive.snapshot(log.session_id)).deleted:
                    return log.deleted()
        return log.silence()


class _SharedLooks:
    """Watchers that look at the same place in the same moment are answered by one reading."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._context = contextvars.copy_context()
        """The service's own: no watcher's deadline counts for the others."""
        self._asked: dict[tuple[str, EventId], asyncio.Task[SessionLook]] = {}

    async def at(self, session_id: str, since: EventId) -> SessionLook:
        """Return what there is from *since* on, read after this was called."""
        asked = (session_id, since)
        if (task := self._asked.get(asked)) is None:
            task = asyncio.create_task(self._look(asked), context=self._context.copy())
            self._asked[asked] = task
        return await asyncio.shield(task)

    async def _look(self, asked: tuple[str, EventId]) -> SessionLook:
        del self._asked[asked]  # whoever asks from now on may know of more
        with operating(StoreOperation.EVENTS):
            return await self._store.look_at_session(*asked, FRAMES_AT_ONCE)


class _Log:
    """A session and its log as one watcher reads them: never silent about what is missing."""

    def __init__(
        self, store: SessionStore, looks: _SharedLooks, session_id: str, place: Place | None
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
        if self._place is None:
            return await self._from_now_on(gap=False)
        look = await self._looks.at(self.session_id, self._place.entry)
        if self._is_away(look.record):
            return []
        if self.ended:
            return [self.deleted()]
        if not _goes_on(look, self._place.entry):
            return await self._from_now_on(gap=True)
        return self._new(look, self._place)

    def silence(self) -> SessionFrame:
        """Return the frame of a stream on which nothing happens."""
        return self._told(SessionFrame())

    def deleted(self) -> SessionFrame:
        """Return the last frame."""
        self.ended = True
        return self._told(SessionFrame(session_deleted=SessionRemoved()))

    def _is_away(self, record: SessionRecord | None) -> bool:
        self.away = record is None
        self.ended = record is not None and record.tombstone
        return self.away

    def _new(self, look: SessionLook, place: Place) -> list[SessionFrame]:
        """Return what came after a place; the session's state only once nothing else waits."""
        frames = []
        for entry, frame in look.entries[1:]:
            place = self._place = Place(entry, place.revision)
            if frame is not None and frame.WhichOneof("event"):
                frames.append(self._told(frame))
        self.has_more = len(look.entries) == FRAMES_AT_ONCE
        record = look.record
        if record is None or self.has_more or record.session.revision == place.revision:
            return frames
        self._place = Place(place.entry, record.session.revision)
        return [*frames, self._told(SessionFrame(session_changed=current(record)))]

    async def _from_now_on(self, *, gap: bool) -> list[SessionFrame]:
        standing = await self._standing()
        if standing is None:
            return [self.deleted()] if self.ended else []
        if not gap:
            return [self._told(SessionFrame(snapshot=standing))]
        telemetry.current().counter(names.SESSION_STREAM_GAPS).add(1)
        return [self._told(SessionFrame(gap=SessionGap(snapshot=standing)))]

    async def _standing(self) -> SessionSnapshot | None:
        """Return how the session stands at the end of its log, and go on from there."""
        looks = 0
        while True:
            looks += 1
            look = await self._store.look_at_session(self.session_id, None, 1)
            record = look.record
            if self._is_away(record) or self.ended or record is None:
                return None
            if not look.entries:
                await self._begin()
                continue
            turns = await self._turns(record)
            live = [turn for turn in turns if turn.phase in LIVE | {PROVISIONAL}]
            if len(live) == len(turns) or looks >= LOOKS_FOR_SNAPSHOT:
                break  # else one has ended since the look
        self._place = Place(look.entries[0][0], record.session.revision)
        return snapshot(record, live)

    async def _turns(self, record: SessionRecord) -> list[TurnRecord]:
        active = record.session.active_turn_id
        ids = [active] if active else []
        found = await self._store.turns([*ids, *record.waiting_turn_ids, *record.side_turn_ids])
        return [turn for turn in found if turn is not None]

    async def _begin(self) -> None:
        """Begin the log of a session in which nothing has happened yet: a cursor is an entry."""

        def decide(draft: Draft) -> None:
            if draft.session is not None and not draft.session.tombstone:
                draft.log(SessionFrame())
                draft.session_changed = True  # which arms the log's expiry, too

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


async def _woken(wake: asyncio.Event, session_id: str) -> None:
    """Wait for a wake-up, at most until all watchers of the session look again together."""
    offset = zlib.crc32(session_id.encode()) / 2**32
    now = asyncio.get_running_loop().time() / LOOK_AGAIN_SECONDS
    with contextlib.suppress(TimeoutError):
        next_beat = (math.floor(now - offset) + 1 + offset) * LOOK_AGAIN_SECONDS
        async with asyncio.timeout_at(next_beat):
            await wake.wait()
