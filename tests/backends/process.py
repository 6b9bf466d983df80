"""Child processes that belong to one test backend and end with it."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from itertools import cycle
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 20.0
KILL_SECONDS = 30.0
FIXED_PORTS = range(20_000, 32_000)
TEST_PROCESSES = 4
"""As many may run at once, each with ports of its own."""


class BackendError(Exception):
    """A backend could not be started, or did not end; the text says where its log is."""


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on now.

    It is below those that the system gives to whoever asks for any port: else another connection
    of this busy machine could take it before its server is up.
    """
    for port in _candidates():
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the candidates never end")


@cache
def _candidates() -> Iterator[int]:
    """Return this process's ports, one after the other and then again.

    Not at random: a server may be started long after its port was asked for.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(FIXED_PORTS[worker % TEST_PROCESSES :: TEST_PROCESSES])
    secrets.SystemRandom().shuffle(ports)
    return cycle(ports)


def free_ports(count: int) -> list[int]:
    """Return that many different ones."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """Yield a folder that is removed at the end.

    Its path is short, because a unix socket's path may hold no more than 107 bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"mt-{kind}-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_user(user: str | None) -> list[str]:
    """Return what runs a command as somebody else.

    The subprocess module would fork for that in a way that runs the handlers of gRPC in the child,
    where they may crash it.
    """
    if user is None:
        return []
    return ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]


class Process:
    """One command in a process group of its own.

    Signals go to that group alone, so no process that the test did not start is ever
    reached. It is not bound to an event loop: a session's fixture may start what a test
    on another loop kills.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        """Describe the command; `user` is whom to run it as, None for the caller."""
        self._command = [*as_user(user), *(str(part) for part in command)]
        self._log = log
        self._env = {**os.environ, **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the running process. Raises BackendError when it is not running."""
        if self._child is None:
            raise BackendError(f"{self._command[0]} is not running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What the process returned; None while it runs."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Start the command, its output appended to the log."""
        with self._log.open("ab") as output:
            self._child = subprocess.Popen(  # noqa: S603 - the command is the backend's own
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._log.parent,
                env=self._env,
                start_new_session=True,
            )

    async def started(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Start, then wait until `ready` says so. Raises BackendError with the log's end."""
        self.start()
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await ready():
            if not self.running or asyncio.get_running_loop().time() > deadline:
                await self.kill()
                raise BackendError(f"{self._command[0]} did not start:\n{self._log_end()}")
            await asyncio.sleep(0.02)

    async def stop(self, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ask the process to end and wait; kill it when it has not ended in time."""
        if self.running:
            os.kill(self.pid, stop_signal)
            await self._ended(STOP_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """End the whole group at once, as a lost machine would, and reap the child."""
        if self._child is None:
            return
        with suppress(ProcessLookupError):  # the group has ended already
            os.killpg(self._child.pid, signal.SIGKILL)
        if not await self._ended(KILL_SECONDS) and self.running:
            raise BackendError(f"{self._command[0]} ({self._child.pid}) survived SIGKILL")
        self._child = None

    async def _ended(self, seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        while self._group_lives() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        return not self._group_lives()

    def _group_lives(self) -> bool:
        """Whether the child or anything in its group is left: a script may die before its server.

        The child is looked at first, because an unreaped child keeps its group alive.
        """
        if self.running:
            return True
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@asynccontextmanager
async def ended_after(*processes: Process) -> AsyncIterator[None]:
    """Leave none of the processes behind, whatever happens inside."""
    try:
        yield
    finally:
        for process in reversed(processes):
            await process.stop()


async def accepts(port: int, greeting: bytes, answer: bytes) -> bool:
    """Whether a server on the port answers `greeting` with something that starts as `answer`."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(greeting)
                await writer.drain()
                return await reader.readexactly(len(answer)) == answer
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


async def accepts_connections(port: int) -> bool:
    """Whether anything listens on the port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
