"""Who cancels: whoever runs a task, or only something that it has called."""

import asyncio


def is_own_cancel(error: BaseException) -> bool:
    """Whether the running task ends with this error because somebody has cancelled it.

    Code of others raises CancelledError by itself, too, as where it awaits what was cancelled
    elsewhere. Taken for a cancel that would end a turn's task, and nobody would hear of the turn.
    """
    task = asyncio.current_task()
    cancelled = task is not None and task.cancelling() > 0
    return isinstance(error, asyncio.CancelledError) and cancelled
