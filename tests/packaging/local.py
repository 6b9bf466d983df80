"""What is deployed, run on this machine: the image's code with the deployment's own variables and
secrets. Only hosts, ports and the places of files are others here.
"""

import compileall
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from os import kill
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.backends.process import Process, accepts_connections, ended_after, free_port
from tests.packaging.deployed import DOCKERFILE, ROOT, Deployed
from tests.waiting import wait_until

START_SECONDS = 60.0
LOG_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalService:
    """One of the processes."""

    part: Deployed
    process: Process
    port: int
    log: Path

    async def has_started(self) -> bool:
        """Whether its probe would find it well; raises AssertionError if it has ended."""
        assert self.process.running, f"{self.part.name} ended:\n{self.log_end()}"
        if self.part.secured:
            return await accepts_connections(self.port)
        return await _serving(self.port)

    def has_ended(self) -> bool:
        return not self.process.running

    def log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


class LocalDeployment:
    """All processes of a deployment."""

    def __init__(
        self, parts: Sequence[Deployed], hosts: Mapping[str, Sequence[str]], folder: Path
    ) -> None:
        """*hosts* says which parts answer at an address; files are kept in *folder*."""
        self._hosts = hosts
        self._folder = folder
        self._image = image_environment(folder / "image")
        self._ports = {part.name: free_port() for part in parts}
        self.services = [self._described(part) for part in parts]

    def port(self, service: str) -> int:
        """Return where the only part of a service listens."""
        (found,) = (one for one in self.services if one.part.service == service)
        return found.port

    async def start(self) -> None:
        """Start all at once, in no order, and wait until each is well."""
        for one in self.services:
            one.process.start()
        for one in self.services:
            await wait_until(one.has_started, START_SECONDS, every=0.05)

    async def drain(self) -> None:
        """Send each its SIGTERM; none may need its SIGKILL, or end with an error."""
        for one in self.services:
            kill(one.process.pid, signal.SIGTERM)
        for one in self.services:
            await wait_until(one.has_ended, one.part.grace)
            assert one.process.exit_code == 0, f"{one.part.name}:\n{one.log_end()}"

    def _described(self, part: Deployed) -> LocalService:
        folder = self._folder / part.name
        environment = part.put_into(folder)
        port = self._ports[part.name]
        environment["MAIEUTIC_SERVER_LISTEN"] = f"127.0.0.1:{port}"
        for name, value in environment.items():
            if name.endswith("_ADDRESS"):
                targets = (f"127.0.0.1:{self._ports[behind]}" for behind in self._hosts[value])
                environment[name] = f"ipv4:{','.join(targets)}"
            elif value.startswith("local:///"):
                environment[name] = f"local://{folder / value.removeprefix('local:///')}"
        log = folder / "log"
        command = [sys.executable, "-m", *part.arguments]
        process = Process(command, log=log, env={**self._image, **environment})
        return LocalService(part=part, process=process, port=port, log=log)


@asynccontextmanager
async def local_deployment(
    parts: Sequence[Deployed], hosts: Mapping[str, Sequence[str]], folder: Path
) -> AsyncIterator[LocalDeployment]:
    """Run the parts during the block."""
    deployment = LocalDeployment(parts, hosts, folder)
    async with ended_after(*(one.process for one in deployment.services)):
        await deployment.start()
        yield deployment


def image_environment(folder: Path) -> dict[str, str]:
    """Copy to *folder* what the Dockerfile copies to /app; returns the image's variables for it."""
    dockerfile = DOCKERFILE.read_text()
    left_out = re.findall(r"^\*\*/(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for name in re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*left_out))
    compileall.compile_dir(folder, quiet=1)
    (python_path,) = re.findall(r"PYTHONPATH=(\S+)", dockerfile)
    return {
        "PYTHONPATH": python_path.replace("/app", str(folder)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }


async def _serving(port: int) -> bool:
    """Ask as a probe without a service's name does."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest()
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=1)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
