"""A turn's stream: its log from a cursor on, until the terminal frame."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from maieutic.v1.turn_service_pb2 import Turn, TurnAccepted, TurnFrame
from services.runtime import names, telemetry
from services.session.errors import TurnNotBack
from services.session.frames import Entry, gap, merged, unbroken
from services.session.ids import checked
from services.session.logs import story_of
from services.session.model import TERMINAL_SEQ, Caller, EventId
from services.session.observing import StoreOperation, operating
from services.session.ports import SessionStore
from services.session.turns import Turns
from services.session.views import committed_files, cursor_of, parse_cursor, terminal_frames

FRAMES_AT_ONCE = 200
"""Most that is held for a watcher: the rest waits in the log until this was taken."""
LOOK_AGAIN_SECONDS = 1.0
"""A wake-up may be lost; the log itself is the truth, and it is read again this often."""
_BEFORE_ALL = EventId(0, 0)


class Wakes(Protocol):
    """Tells that a log may have grown."""

    def listen(self, turn_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Set the event whenever there may be something new; spurious and lost ones are allowed."""
        ...

    def listen_to_session(self, session_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Do the same for a session's log. Of changes without an entry there nothing is told."""
        ...


class Watching:
    """Streams turns, at any replica and from any cursor."""

    def __init__(self, *, store: SessionStore, turns: Turns, wakes: Wakes) -> None:
        self._store = store
        self._turns = turns
        self._wakes = wakes

    async def watch(self, caller: Caller, turn_id: str, cursor: str) -> AsyncIterator[TurnFrame]:
        """Yield the frames after *cursor*; the last one is the outcome. Raises BadCursor."""
        after = parse_cursor(checked("turn_id", turn_id), cursor)
        turn = await self._turns.get(caller, turn_id)
        async for frame in self._frames(caller, turn, after):
            yield frame

    async def follow(self, caller: Caller, turn: Turn) -> AsyncIterator[TurnFrame]:
        """Yield a turn that was just begun: the accepted frame says whether it is durable.

        It comes first, even if the log has lost it.
        """
        accepted = TurnFrame(turn_id=turn.turn_id, accepted=TurnAccepted(turn=turn))
        accepted.cursor = cursor_of(turn.turn_id, _BEFORE_ALL)
        first = True
        async for frame in self._frames(caller, turn, None):
            if frame.HasField("accepted"):
                frame.accepted.CopyFrom(accepted.accepted)
            elif first:
                yield accepted
            first = False
            yield frame

    async def _frames(
        self, caller: Caller, turn: Turn, after: EventId | None
    ) -> AsyncIterator[TurnFrame]:
        log, silent = _Log(self._store, turn.turn_id, after), False
        async with self._wakes.listen(turn.turn_id) as wake:
            while True:
                wake.clear()
                with operating(StoreOperation.EVENTS):
                    frames = await log.next()
                if not frames and (frames is None or silent or log.ended):
                    frames = await self._ended(caller, turn.turn_id)
                for frame in frames or ():
                    yield frame
                    if frame.HasField("outcome"):
                        return
                if not log.has_more:
                    silent = not await _woken(wake)

    async def _ended(self, caller: Caller, turn_id: str) -> Sequence[TurnFrame]:
        """Return what ends the stream of a turn without a log; nothing while it runs."""
        try:
            turn = await self._turns.get(caller, turn_id)
        except TurnNotBack:
            return []  # this stream has seen it: it is there, or on its way back
        return terminal_frames(turn) if turn.HasField("outcome") else []


class _Log:
    """A turn's log as one watcher reads it: never silent about what is missing."""

    def __init__(self, store: SessionStore, turn_id: str, after: EventId | None) -> None:
        self._store = store
        self._turn_id = turn_id
        self._after = after
        self.has_more = False
        """Whether there may be more frames now; what is added later wakes."""

    @property
    def ended(self) -> bool:
        """Whether the terminal frame was read, by this watcher or with its cursor."""
        return self._after is not None and self._after.seq == TERMINAL_SEQ

    async def next(self) -> Sequence[TurnFrame] | None:
        """Return the next frames, with their cursors; None if there is no log."""
        page = await self._store.events(self._turn_id, self._after, FRAMES_AT_ONCE)
        if not page:
            self.has_more = False
            return None if page is None else []
        known = unbroken(self._after, page)
        self.has_more = len(known) < len(page) or len(page) == FRAMES_AT_ONCE
        if not known:
            # In this order: the log tells of what is committed later.
            turn = await self._store.turn(self._turn_id)
            story = await story_of(self._store, self._turn_id)
            committed = committed_files(turn) if turn is not None else []
            known = gap(self._turn_id, self._after, page[0][0], story, committed)
            _count(known)
        return self._told(merged(known))

    def _told(self, entries: Sequence[Entry]) -> Sequence[TurnFrame]:
        for at, frame in entries:
            frame.cursor, self._after = cursor_of(self._turn_id, at), at
        return [frame for _, frame in entries]


def _count(gaps: Sequence[Entry]) -> None:
    for _, frame in gaps:
        labels = {names.TEXT_INCOMPLETE: frame.gap.text_incomplete}
        telemetry.current().counter(names.STREAM_GAPS).add(1, labels)


async def _woken(wake: asyncio.Event) -> bool:
    """Wait for a wake-up, but not for ever: one may be lost."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_AGAIN_SECONDS):
            return await wake.wait()
    return False
