"""Many writers of one session in two processes, while replies to their commits are lost."""

import asyncio
import random
import sys
import time
from asyncio.subprocess import PIPE, Process

from redis.asyncio import Redis

from maieutic.bus.v1.bus_pb2 import SessionChanged
from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1.session_service_pb2 import Session
from services.session.adapters.redis import RedisSessionStore
from services.session.ids import Ids, shard_of
from services.session.model import Draft, Timing
from tests.backends.redis import RedisServer
from tests.proxy import proxy
from tests.session.writers import UPDATES, WRITERS

PROCESSES = 2
LOST = 0.15
SESSION_ID = Ids(b"k" * 32).session("writers", "u", "r")


async def test_each_update_applies_once_while_replies_to_commits_are_lost(
    valkey_server: RedisServer,
) -> None:
    lottery, commits, lost = random.Random(15), 0, 0

    def lose(chunk: bytes) -> bool:
        nonlocal commits, lost
        if b"EXEC" not in chunk:
            return False
        hit = lottery.random() < LOST
        commits, lost = commits + 1, lost + hit
        return hit

    async with (
        proxy(valkey_server.port) as link,
        Redis.from_url(valkey_server.url) as redis,
        RedisSessionStore.connect(valkey_server.url, timing=Timing()) as store,
    ):
        await redis.flushdb()
        await _create(store)
        link.swallow_replies(lose)
        seconds = await _write_in_processes(f"redis://127.0.0.1:{link.port}/0")
        applied, left = await _told(store), await _record(store)

    writers = range(PROCESSES * WRITERS)
    asked = {f"{writer}.{number}" for writer in writers for number in range(UPDATES)}
    # Each commit tells the archive of itself: what was applied twice is told twice.
    assert sorted(session.title for session in applied) == sorted(asked)
    revisions = [session.revision for session in applied]
    assert revisions == sorted(set(revisions))
    assert left == applied[-1]
    assert lost > LOST * commits / 2
    sys.stdout.write(
        f"\n{len(applied)} of {len(asked)} updates of one session applied once, by {len(writers)} "
        f"writers in {PROCESSES} processes, in {seconds:.1f} s ({len(asked) / seconds:.0f}/s); "
        f"{lost} of {commits} replies to EXEC were lost\n"
    )


async def _write_in_processes(url: str) -> float:
    """Return in how many seconds all have written."""
    processes = [await _writers(url, WRITERS * number) for number in range(PROCESSES)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        start = time.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        codes = await asyncio.gather(*(process.wait() for process in processes))
        assert codes == [0] * PROCESSES
        return time.monotonic() - start
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _writers(url: str, first: int) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.session.writers", url, SESSION_ID, str(first)),
        stdin=PIPE,
        stdout=PIPE,
    )


async def _create(store: RedisSessionStore) -> None:
    def decide(draft: Draft) -> None:
        draft.session = SessionRecord(tenant="writers", session=Session(session_id=SESSION_ID))
        draft.touch()

    await store.transact(SESSION_ID, decide)


async def _record(store: RedisSessionStore) -> Session:
    record = await store.session(SESSION_ID)
    assert record is not None
    return record.session


async def _told(store: RedisSessionStore) -> list[Session]:
    """Return the session as the archive is told of it after each change, in order."""
    facts = await store.out_read(shard_of(SESSION_ID), 10 * PROCESSES * WRITERS * UPDATES)
    return [SessionChanged.FromString(body).session for _, _, body in facts]
