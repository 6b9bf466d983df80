"""Somebody who watches a session, and what they were told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from maieutic.v1.session_service_pb2 import SessionFrame
from tests.session.stack import SOON, User

ABOUT_TURNS = frozenset({"turn_accepted", "turn_started", "turn_step_finished", "turn_ended"})


class Watcher:
    """Reads one stream, and remembers it."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.frames: list[SessionFrame] = []

    @property
    def cursor(self) -> str:
        return self.frames[-1].cursor

    async def next(self) -> SessionFrame:
        """Return the next frame; raises EOFError at the end."""
        async with asyncio.timeout(SOON):
            response = await self._call.read()
        if response is grpc.aio.EOF:
            raise EOFError
        self.frames.append(response.frame)
        return response.frame  # type: ignore[no-any-return]

    async def until(self, fits: Callable[[SessionFrame], bool]) -> SessionFrame:
        """Read up to the first frame that fits."""
        while not fits(frame := await self.next()):
            pass
        return frame

    async def until_kind(self, kind: str, turn_id: str = "") -> SessionFrame:
        return await self.until(
            lambda frame: kind_of(frame) == kind and turn_id in ("", frame.turn_id)
        )

    def of_turns(self) -> list[tuple[str, str]]:
        """Return (kind, turn id) of every frame about a turn."""
        return about_turns(self.frames)


def kind_of(frame: SessionFrame) -> str:
    return frame.WhichOneof("event") or ""


def about_turns(frames: list[SessionFrame]) -> list[tuple[str, str]]:
    return [(kind_of(f), f.turn_id) for f in frames if kind_of(f) in ABOUT_TURNS]


@asynccontextmanager
async def watching(user: User, session_id: str, cursor: str = "") -> AsyncIterator[Watcher]:
    """Watch during the block."""
    call = user.watch_session(session_id, cursor)
    try:
        yield Watcher(call)
    finally:
        call.cancel()
