"""Waits in which the pieces of an answer gather."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

FEW = 100
"""Answers under way below which nothing waits."""
SECONDS_PER_ANSWER = 0.001
MOST_SECONDS = 0.2


class Gathering:
    """Lets pieces gather while hundreds of answers are under way, so that several are one's work.

    A piece goes through all layers up to the session's event log, and that takes nearly the same
    for one word as for ten. So where many answers share a worker, their words are shown in larger
    steps, a moment later.
    """

    def __init__(self) -> None:
        self._answers = 0

    @property
    def seconds(self) -> float:
        """How long pieces gather now."""
        if self._answers < FEW:
            return 0.0
        return min(self._answers * SECONDS_PER_ANSWER, MOST_SECONDS)

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Count an answer as under way during the block."""
        self._answers += 1
        try:
            yield
        finally:
            self._answers -= 1

    async def pause(self, transport: asyncio.ReadTransport | None) -> None:
        """Let pieces gather, if there are many answers, where they come from: in *transport*."""
        if (seconds := self.seconds) > 0:
            with _held(transport):
                await asyncio.sleep(seconds)


@contextmanager
def _held(transport: asyncio.ReadTransport | None) -> Iterator[None]:
    """Leave what comes in the kernel's buffer, where it costs nothing until it is read at once.

    Over TLS it is read and decrypted, and held back behind that.

    A transport that is not reading is held back by somebody else, who is to let it go on.
    """
    if transport is None or not transport.is_reading():
        yield
        return
    transport.pause_reading()
    try:
        yield
    finally:
        transport.resume_reading()
