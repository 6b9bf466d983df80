import asyncio

import pytest

from services.runtime.errors import Unavailable
from services.runtime.repeating import again_and_again
from tests.waiting import wait_until


async def test_work_goes_on_after_whatever_failed_until_it_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = [Unavailable("the archive is away"), ValueError("a bug")]
    done = 0

    async def work() -> None:
        nonlocal done
        if failures:
            raise failures.pop(0)
        done += 1

    running = asyncio.create_task(again_and_again(work, seconds=0.001, what="files are removed"))
    await wait_until(lambda: done > 1)
    assert "files are removed later: the archive is away" in caplog.text
    assert "ValueError: a bug" in caplog.text
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
