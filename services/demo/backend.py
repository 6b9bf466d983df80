"""The embedded backend as a process of its own, so that it can be killed."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from maieutic_client import Maieutic

START_SECONDS = 30.0


class BackendFailed(Exception):
    """The backend did not come up; its own words are on standard error."""


class Backend:
    """One backend on one folder and one port, started as often as needed."""

    def __init__(self, home: Path, environ: dict[str, str], *, model: str = "offline") -> None:
        self._port = _free_port()
        self._environ = {
            **environ,
            "MAIEUTIC_HOME": str(home),
            # What it shows must not depend on whose key is in the environment.
            "MAIEUTIC_MODEL_KIND": model,
            "MAIEUTIC_LISTEN": f"127.0.0.1:{self._port}",
        }
        self._process: asyncio.subprocess.Process | None = None
        self._api_key = ""

    @property
    def address(self) -> str:
        """Where the public API is."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start it and wait until it answers; raises BackendFailed."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.embedded"),
            stdout=asyncio.subprocess.PIPE,
            env=self._environ,
            # A Ctrl-C is for the demonstration, which then stops the backend.
            start_new_session=True,
        )
        if self._process.stdout is None:
            raise BackendFailed("the backend has no standard output")
        line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        words = line.decode().split()
        if words[:1] != ["ready"]:
            raise BackendFailed("the backend ended before it was ready")
        self._api_key = await asyncio.to_thread(Path(words[2]).read_text)

    async def kill(self) -> None:
        """End it as a lost machine would: SIGKILL, nothing is put in order."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it in order, if it runs."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            os.kill(self._process.pid, number)
        await self._process.wait()
        self._process = None

    def client(self) -> Maieutic:
        """Return a client of the backend; it survives restarts."""
        return Maieutic.connect(self.address, api_key=self._api_key.strip())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
