"""A process whose writers all update one session: `python -m tests.session.writers URL ID FIRST`.

It answers "ready", waits for a line, and then writes. It ends in error if a revision that one of
its writers was told is not above the one before.
"""

import asyncio
import sys

from maieutic.v1.session_service_pb2 import UpdateSessionRequest
from services.session.adapters.redis import RedisSessionStore
from services.session.errors import ConflictExhausted, StoreUnavailable
from services.session.model import Timing
from services.session.ports import Reads
from services.session.updating import update

WRITERS = 32
UPDATES = 30


async def _write(store: RedisSessionStore, session_id: str, writer: int) -> None:
    last = 0
    for number in range(UPDATES):
        title = f"{writer}.{number}"
        request = UpdateSessionRequest(session_id=session_id, request_id=title, title=title)
        request.update_mask.paths.append("title")
        revision = await _acknowledged(store, request)
        if revision <= last:
            message = f"{title} was told revision {revision} after {last}"
            raise AssertionError(message)
        last = revision


async def _acknowledged(store: RedisSessionStore, request: UpdateSessionRequest) -> int:
    """Ask until there is an answer, as a caller does that retries with the same request id."""
    while True:
        try:
            session, _ = await store.transact(
                request.session_id,
                lambda draft: update(draft, request),
                Reads(operation=request.request_id),
            )
        except (StoreUnavailable, ConflictExhausted):
            continue
        return session.revision


async def _main(url: str, session_id: str, first: int) -> None:
    async with RedisSessionStore.connect(url, timing=Timing()) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        async with asyncio.TaskGroup() as group:
            for writer in range(first, first + WRITERS):
                group.create_task(_write(store, session_id, writer))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
