"""The embedded backend in a process of its own, to talk to, to kill and to start again."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from maieutic_client import Maieutic
from services.gateway.adapters.key_file import add_key
from services.gateway.model import KeyHolder
from services.session.adapters import private_valkey
from tests.backends.process import Process, scratch_folder

READY = "ready "
LOG_LINES = 60


class Backend:
    """One home; a process at a time works in it."""

    def __init__(self, home: Path, *, log: str = "process.log", **settings: str) -> None:
        """*settings* are environment variables without their prefix."""
        self.home = home
        keys_file = home / "api-keys.jsonl"
        self.stranger_key = add_key(keys_file, KeyHolder(tenant="zenith", user="ann"))
        """Of another tenant."""
        self.address = ""
        self._log = home / log
        self._logged = 0
        environment = {
            "HOME": str(home),
            "LISTEN": "127.0.0.1:0",
            "MODEL_WORD_DELAY": "0.001",
            **{name.upper(): value for name, value in settings.items()},
        }
        self._process = Process(
            [sys.executable, "-m", "services.embedded"],
            log=self._log,
            env={f"MAIEUTIC_{name}": value for name, value in environment.items()},
        )

    @property
    def api_key(self) -> str:
        """The key that the backend made at its first start."""
        return (self.home / "api.key").read_text().strip()

    async def start(self) -> None:
        """Start and wait until it says where it listens."""
        self._logged = self._log.stat().st_size if self._log.exists() else 0
        await self._process.started(self._ready)

    async def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        await self._process.stop()

    async def kill9(self) -> None:
        """End the process without warning. Its Valkey lives on, as a process of its own."""
        await self._process.kill()

    async def end(self) -> None:
        """Leave no process behind, a Valkey that lost its parent neither."""
        await self.stop()
        await private_valkey._stop(private_valkey._socket_path(self.home / "valkey"))

    def client(self, api_key: str = "") -> Maieutic:
        """Return a client, to be used as a context."""
        return Maieutic.connect(self.address, api_key=api_key or self.api_key)

    def calls(self) -> list[str]:
        """The turn of each call of the scripted model."""
        return (self.home / "calls").read_text().split()

    def log(self) -> str:
        """Return the end of what the process printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    async def _ready(self) -> bool:
        for line in self._log.read_bytes()[self._logged :].decode(errors="replace").splitlines():
            if line.startswith(READY):
                self.address = line.split()[1]
                return True
        return False


@asynccontextmanager
async def backend(**settings: str) -> AsyncIterator[Backend]:
    """Run the backend in a fresh home."""
    with scratch_folder("home") as home:
        running = Backend(home, **settings)
        try:
            await running.start()
            yield running
        finally:
            await running.end()


@asynccontextmanager
async def scripted_backend(**settings: str) -> AsyncIterator[Backend]:
    """Run the backend with a model that does as the question says; a lost turn is soon missed."""
    with scratch_folder("home") as home:
        scripted = {"model_kind": "scripted", "model_calls_file": str(home / "calls")}
        running = Backend(home, lease="2", **scripted, **settings)
        try:
            await running.start()
            yield running
        finally:
            await running.end()
