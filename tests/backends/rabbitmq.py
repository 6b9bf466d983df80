"""A private RabbitMQ node."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.backends.process import (
    BackendError,
    Process,
    accepts,
    ended_after,
    free_port,
    scratch_folder,
)
from tests.waiting import wait_until

_AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = b"\x01"

# Debian's /usr/sbin wrapper changes the user, which loses the private folders; the scripts
# in the library folder do not. Other systems have only the plain script on PATH.
_SCRIPT_FOLDERS = (Path("/usr/lib/rabbitmq/bin"),)


class RabbitNode:
    """One node: it can be stopped, killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        """Keep everything the node writes in `folder`."""
        self._folder = folder
        self._port = free_port()
        self._dist_port = free_port()
        self._epmd_port = free_port()
        self._write_files()
        # The port mapper runs in the foreground as our child: started by the node it would
        # become a daemon that outlives the test.
        self.port_mapper = Process(
            [_epmd(), "-address", "127.0.0.1", "-port", str(self._epmd_port)],
            log=folder / "epmd.log",
        )
        self._server = Process(
            [_script("rabbitmq-server")], log=folder / "server.log", env=self._environment()
        )

    @property
    def url(self) -> str:
        """The AMQP address, with the guest user."""
        return f"amqp://guest:guest@127.0.0.1:{self._port}/"

    @property
    def port(self) -> int:
        """The AMQP port; it stays the same over restarts."""
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether the broker's process is up."""
        return self._server.running

    async def start(self) -> None:
        """Start on the data of the last run and return once AMQP is answered (seconds)."""
        if not self.port_mapper.running:
            await self.port_mapper.started(self._port_mapper_listens)
        await self._server.started(self._answers_amqp)

    async def stop(self) -> None:
        """Shut down in good order."""
        await self._server.stop()

    async def kill9(self) -> None:
        """End the node without warning.

        A quorum queue declared less than a second ago may not come back: the node writes its
        directory of queues late. Declare early, or wait until it `keeps` the queue.
        """
        await self._server.kill()

    async def keeps(self, queue: str) -> None:
        """Wait until a quorum queue that was declared comes back after a kill."""
        name = queue.encode()

        def is_written() -> bool:
            files = self._folder.glob("data/*/quorum/*/names.dets")
            return any(name in file.read_bytes() for file in files)

        await wait_until(is_written, every=0.05)

    async def restart(self) -> None:
        """Shut down in good order and start again on the same data."""
        await self.stop()
        await self.start()

    async def close(self) -> None:
        """End the node and its port mapper."""
        async with ended_after(self.port_mapper):
            await self._server.kill()

    async def _answers_amqp(self) -> bool:
        return await accepts(self._port, _AMQP_GREETING, _METHOD_FRAME)

    async def _port_mapper_listens(self) -> bool:
        return await accepts(self._epmd_port, b"\x00\x01n", self._epmd_port.to_bytes(4, "big"))

    def _write_files(self) -> None:
        for name in ("data", "log"):
            (self._folder / name).mkdir()
        cookie = self._folder / ".erlang.cookie"
        cookie.write_text("MAIEUTICTESTS")
        cookie.chmod(0o400)
        (self._folder / "enabled_plugins").write_text("[].")
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._port}\n"
            "log.console = false\n"
            "log.file.level = info\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 50MB\n"
            "raft.wal_max_size_bytes = 64000000\n"
        )

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"maieutic{self._port}@localhost",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            # Keep the machine's own settings out.
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            # Schedulers that sleep instead of spinning leave the cores to the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{loopback} +sbwt none +sbwtdcpu none",
            "RABBITMQ_CTL_ERL_ARGS": loopback,
        }


@asynccontextmanager
async def rabbitmq() -> AsyncIterator[RabbitNode]:
    """Run one node with an empty data folder."""
    with scratch_folder("rabbit") as folder:
        node = RabbitNode(folder)
        try:
            await node.start()
            yield node
        finally:
            await node.close()


def _script(name: str) -> str:
    for folder in _SCRIPT_FOLDERS:
        if (folder / name).exists():
            return str(folder / name)
    return _on_path(name)


def _epmd() -> str:
    return _on_path("epmd")


def _on_path(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise BackendError(f"{name} is not installed; see `make test`")
    return found
