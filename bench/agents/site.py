"""The five services on real servers, with workers that call an emulator of Claude's API."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.deployment import Settings, deployment, over
from bench.processor import ProcessorTime
from maieutic_client import Maieutic
from tests.backends.process import Process, scratch_folder
from tests.stack import RealStack

ARCHIVE_CONNECTIONS = 8
"""max_connections of PostgreSQL."""
POOL = "4"
"""Most connections of the archive; the others are for whoever looks."""


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
async def deployed(settings: Settings | None = None) -> AsyncIterator[Site]:
    """Run everything, with one worker; *settings* go over those for load."""
    async with (
        _emulator() as claude,
        deployment(
            over(_settings(claude.url), settings or {}), archive_connections=ARCHIVE_CONNECTIONS
        ) as stack,
        stack.client() as client,
    ):
        yield Site(stack=stack, claude=claude, client=client)


def _settings(claude: str) -> Settings:
    return {
        "persistence": {"POOL_SIZE": POOL},
        "agents": {
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
