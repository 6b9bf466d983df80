"""Ctrl-C while a turn is watched."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from maieutic_client.client import Maieutic
from maieutic_client.stream import TurnStream

LOOK_SECONDS = 0.05


@contextmanager
def interrupt_cancels(client: Maieutic, stream: TurnStream) -> Iterator[None]:
    """Let the first Ctrl-C cancel the turn, whose stream then ends by itself; the next one us."""
    loop, tasks = asyncio.get_running_loop(), []
    previous = signal.getsignal(signal.SIGINT)

    def cancel_turn() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, previous)
        tasks.append(loop.create_task(_cancelled(client, stream)))

    try:
        loop.add_signal_handler(signal.SIGINT, cancel_turn)
    except (NotImplementedError, RuntimeError):  # Windows, or a thread: Ctrl-C ends the command
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, previous)
        for task in tasks:  # the turn has ended, or was never accepted, or a second one has come
            task.cancel()


async def _cancelled(client: Maieutic, stream: TurnStream) -> None:
    """Cancel the turn, as soon as its id is known."""
    while not stream.turn_id:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(LOOK_SECONDS)
    await client.turns.cancel(stream.turn_id)
