"""A turn's stream: its log from a cursor on, until the terminal frame."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from maieutic.v1.turn_service_pb2 import Turn, TurnAccepted, TurnFrame
from services.session.errors import TurnNotBack
from services.session.ids import checked
from services.session.model import TERMINAL_SEQ, Caller, EventId
from services.session.observing import StoreOperation, operating
from services.session.ports import SessionStore
from services.session.turns import Turns
from services.session.views import cursor_of, parse_cursor, terminal_frames

FRAMES_AT_ONCE = 200
LOOK_AGAIN_SECONDS = 1.0
"""A wake-up may be lost; the log itself is the truth, and it is read again this often."""


class Wakes(Protocol):
    """Tells that a turn's log may have grown."""

    def listen(self, turn_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Set the event whenever there may be something new; spurious and lost ones are allowed."""
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
        """Yield a turn that was just begun: the accepted frame says whether it is durable."""
        async for frame in self._frames(caller, turn, None):
            if frame.HasField("accepted"):
                frame.accepted.CopyFrom(TurnAccepted(turn=turn))
            yield frame

    async def _frames(
        self, caller: Caller, turn: Turn, after: EventId | None
    ) -> AsyncIterator[TurnFrame]:
        silent = False
        async with self._wakes.listen(turn.turn_id) as wake:
            while True:
                wake.clear()
                with operating(StoreOperation.EVENTS):
                    page = await self._store.events(turn.turn_id, after, FRAMES_AT_ONCE)
                for at, frame in page or ():
                    frame.cursor, after = cursor_of(turn.turn_id, at), at
                    yield frame
                    if frame.HasField("outcome"):
                        return
                if page and len(page) == FRAMES_AT_ONCE:
                    continue  # there may be more; what is added after this page wakes
                over = page is None or silent or (after and after.seq == TERMINAL_SEQ)
                if over and not page:
                    for frame in await self._ended(caller, turn.turn_id):
                        yield frame
                        if frame.HasField("outcome"):
                            return
                silent = not await _woken(wake)

    async def _ended(self, caller: Caller, turn_id: str) -> list[TurnFrame]:
        """Return what ends the stream of a turn without a log; nothing while it runs."""
        try:
            turn = await self._turns.get(caller, turn_id)
        except TurnNotBack:
            return []  # this stream has seen it: it is there, or on its way back
        return terminal_frames(turn) if turn.HasField("outcome") else []


async def _woken(wake: asyncio.Event) -> bool:
    """Wait for a wake-up, but not for ever: one may be lost."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_AGAIN_SECONDS):
            return await wake.wait()
    return False
