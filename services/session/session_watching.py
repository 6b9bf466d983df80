"""A session's stream: what happens in it from a cursor on, until it is deleted."""

import asyncio
import contextlib
import math
import time
import zlib
from collections.abc import AsyncIterator

from maieutic.v1.session_service_pb2 import SessionFrame
from services.runtime.errors import Unavailable
from services.session.archive import Archive
from services.session.conversations import Conversations
from services.session.happenings import Place
from services.session.ids import checked
from services.session.model import Caller
from services.session.ports import SessionStore
from services.session.session_log import SessionLog, SharedLooks
from services.session.watching import Wakes

LOOK_AGAIN_SECONDS = 1.0
"""Not every change wakes, and a wake-up may be lost: the session is looked at this often."""


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
        self._looks = SharedLooks(store)

    async def watch(
        self, caller: Caller, session_id: str, cursor: str
    ) -> AsyncIterator[SessionFrame]:
        """Yield the frames after *cursor*; `session_deleted` is the last. Raises BadCursor."""
        place = Place.parse(checked("session_id", session_id), cursor)
        await self._conversations.get(caller, session_id)
        log = SessionLog(self._store, self._looks, session_id, place)
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

    async def _still_there(self, log: SessionLog) -> SessionFrame:
        """Return a frame without an event; of a session that has left, ask the archive, too.

        The store may have lost a session together with the mark that it was deleted.
        """
        if log.away:
            with contextlib.suppress(Unavailable):
                if (await self._archive.snapshot(log.session_id)).deleted:
                    return log.deleted()
        return log.silence()


async def _woken(wake: asyncio.Event, session_id: str) -> None:
    """Wait for a wake-up, at most until all watchers of the session look again together."""
    offset = zlib.crc32(session_id.encode()) / 2**32
    now = asyncio.get_running_loop().time() / LOOK_AGAIN_SECONDS
    with contextlib.suppress(TimeoutError):
        next_beat = (math.floor(now - offset) + 1 + offset) * LOOK_AGAIN_SECONDS
        async with asyncio.timeout_at(next_beat):
            await wake.wait()
