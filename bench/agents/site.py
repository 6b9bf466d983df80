"""The five services on real servers, with workers that call an emulator of Claude's API."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.processor import ProcessorTime
from maieutic_client import Maieutic
from tests.backends.postgres import postgres
from tests.backends.process import Process, scratch_folder
from tests.backends.rabbitmq import rabbitmq
from tests.backends.redis import redis_server
from tests.stack import RealStack, real_stack

ARCHIVE_CONNECTIONS = 8
"""max_connections of PostgreSQL."""
POOL = "4"
"""Most connections of the archive; the others are for whoever looks."""
ROOM = "2000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claude:
    """The emulator, in a process of its own."""

    url: str
    pid: int

    async def follow(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Answer by these rules from now on, and begin a new log of requests."""
        async with httpx.AsyncClient(base_url=self.url) as emulator:
            (await emulator.put("/plan", json={"rules": rules})).raise_for_status()
            (await emulator.delete("/requests")).raise_for_status()

    async def requests(self) -> Sequence[Mapping[str, Any]]:
        """Return the log of requests."""
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as emulator:
            log: Sequence[Mapping[str, Any]] = (await emulator.get("/requests")).json()["requests"]
            return log


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A deployment under load."""

    stack: RealStack
    claude: Claude
    client: Maieutic

    def processor(self) -> ProcessorTime:
        """Return a look at what each part uses."""
        return ProcessorTime({**self.stack.processes(), "claude": self.claude.pid})


@asynccontextmanager
async def deployed(settings: Mapping[str, Mapping[str, str]] | None = None) -> AsyncIterator[Site]:
    """Run everything, with one worker; *settings* of services go over those for load."""
    name = f"bench_{secrets.token_hex(4)}"
    async with AsyncExitStack() as entered:
        claude = await entered.enter_async_context(_emulator())
        rabbit = await entered.enter_async_context(rabbitmq())
        archive = await entered.enter_async_context(postgres(max_connections=ARCHIVE_CONNECTIONS))
        redis = await entered.enter_async_context(redis_server(append_only=True, fsync="everysec"))
        own = _settings(rabbit.url, archive.url_of(name), claude.url)
        whole = {one: {**own[one], **(settings or {}).get(one, {})} for one in own}
        stack = await entered.enter_async_context(
            real_stack(rabbit, archive, redis=redis, settings=whole, database_name=name)
        )
        client = await entered.enter_async_context(stack.client())
        yield Site(stack=stack, claude=claude, client=client)


def _settings(bus: str, archive: str, claude: str) -> Mapping[str, Mapping[str, str]]:
    """Return settings with room for a thousand turns of one tenant in one worker."""
    return {
        "gateway": {"STREAMS_PER_TENANT": ROOM, "CALLS_PER_TENANT": ROOM},
        "session": {"BUS_URL": bus},
        "retrieval": {"BUS_URL": bus},
        "persistence": {"BUS_URL": bus, "ARCHIVE_URL": archive, "POOL_SIZE": POOL},
        "agents": {
            "BUS_URL": bus,
            "INTERACTIVE_TURNS": "1024",
            "MODEL_KIND": "claude",
            "MODEL_CLAUDE_API_KEY": "a key",
            "MODEL_CLAUDE_BASE_URL": claude,
        },
    }


@asynccontextmanager
async def _emulator() -> AsyncIterator[Claude]:
    with scratch_folder("claude") as folder:
        log = folder / "log"
        maieutic = Path(sys.executable).with_name("maieutic")
        process = Process([maieutic, "emulate", "anthropic", "--port", "0"], log=log)
        await process.started(lambda: _ready(log))
        try:
            yield Claude(url=log.read_text().split()[-1], pid=process.pid)
        finally:
            await process.kill()


async def _ready(log: Path) -> bool:
    return "ready " in await asyncio.to_thread(log.read_text)
