"""How a process of ours ends: on SIGTERM or SIGINT, with its resources closed in order."""

import asyncio
import gc
import importlib.util
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

OBJECTS_BETWEEN_COLLECTIONS = 300_000
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a process's *work* until it ends or a signal ends it, on uvloop where there is one."""
    loop_factory = None
    if importlib.util.find_spec("uvloop"):  # not on Windows; halves the cost of a streamed message
        import uvloop  # noqa: PLC0415

        loop_factory = uvloop.new_event_loop
    with collecting_rarely(), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(until_signalled(work))


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Look for garbage in cycles more rarely during the block, and never in what was there before.

    Each message makes hundreds of objects, and nearly all go with their last reference. Looking
    after every 700, and through all that the imports made, takes a tenth of the processor time;
    after every 20,000, and with a thousand turns at work, a twelfth of a worker's; after every
    100,000 still a tenth, because most of what is looked through then is alive.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Run *work* and cancel it on SIGTERM or SIGINT; a second signal cuts its clean-up short.

    Returns when the work has ended, normally also after a signal. For `main` alone: it takes the
    event loop's signal handlers for itself.
    """
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    signalled = False

    def stop() -> None:
        nonlocal signalled
        signalled = True
        task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        # Only the cancellation that a signal asked for ends here; any other is the caller's.
        if not (signalled and task.done()):
            raise
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
