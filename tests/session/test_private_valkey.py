"""The embedded mode's own store, when the process that started it dies."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from services.session.adapters.private_valkey import private_valkey, valkey_in_memory

SOON = 20.0
STARTER = """
import asyncio, sys
from pathlib import Path
from services.session.adapters.private_valkey import private_valkey

async def main():
    async with private_valkey(Path(sys.argv[1])) as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_server_whose_starter_was_killed_holds_no_pipe_and_the_next_start_takes_over(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, str(home)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert starter.stdout is not None
    url = (await asyncio.wait_for(starter.stdout.readline(), SOON)).decode().strip()
    orphan = await pid_of(url, "written before")
    try:
        starter.kill()
        # To the end of both pipes: that comes only once nobody holds them.
        assert await asyncio.wait_for(starter.communicate(), SOON) == (b"", b"")
        assert alive(orphan)
        async with private_valkey(home) as again:
            assert again == url
            assert not alive(orphan)
            async with Redis.from_url(again) as redis:
                assert await redis.get("key") == b"written before"
    finally:
        if alive(orphan):
            os.kill(orphan, signal.SIGTERM)
    assert "Ready to accept connections" in (home / "valkey.log").read_text()


async def pid_of(url: str, value: str) -> int:
    """Write, and return the server's process."""
    async with Redis.from_url(url) as redis:
        await redis.set("key", value)
        return int((await redis.info("server"))["process_id"])


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended may wait for somebody to collect it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_in_memory_nothing_is_kept_on_disk_and_nothing_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with valkey_in_memory() as url:
        pid = await pid_of(url, "written")
        socket = Path(url.removeprefix("unix://"))
        assert {file.name for file in socket.parent.iterdir()} <= {"valkey.sock", "valkey.log"}
    assert not alive(pid)
    assert not socket.parent.exists()
    async with valkey_in_memory() as again, Redis.from_url(again) as redis:
        assert await redis.get("key") is None
        assert again != url
    assert "run one replica of it, and only for trials" in caplog.text
