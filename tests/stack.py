"""The whole backend as it is deployed: five kinds of processes on real servers.

One stack at a time may use a broker, because the names of the queues are fixed.
"""

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import grpc
from grpc.aio import Channel
from grpc_health.v1 import health_pb2, health_pb2_grpc

from maieutic_client import Maieutic
from services.gateway.adapters.key_file import add_key
from services.gateway.model import KeyHolder
from services.runtime.channel import open_channel
from services.runtime.keyring import KeyRing
from services.runtime.topology import maieutic_topology
from tests.backends.postgres import PostgresServer
from tests.backends.process import Process, free_port, scratch_folder
from tests.backends.rabbitmq import RabbitNode
from tests.backends.redis import RedisServer, redis_server
from tests.proxy import Direction, Proxy, proxy

SERVICES = ("persistence", "session", "retrieval", "agents", "gateway")
ON_THE_BUS = ("persistence", "session", "retrieval", "agents")
REPLICAS = (1, 2)
WORKERS = range(1, 9)
"""Nobody calls them, so there may be more."""
LOG_LINES = 60

TIMING: Mapping[str, Mapping[str, str]] = {
    "session": {
        "LEASE": "2",
        "PUBLISH_GRACE": "1",
        "ARCHIVE_GRACE": "2",
        "SWEEP_INTERVAL": "0.2",
    },
    "agents": {
        "RECORDER_HEARTBEAT_INTERVAL": "0.3",
        "RECORDER_RECONNECT_PAUSE": "0.2",
        # Half of it for turns to finish, then they are handed back.
        "GRACE": "3.5",
        "MODEL_KIND": "scripted",
    },
    "persistence": {"ENSURE_AFTER": "5", "ENSURE_INTERVAL": "1"},
}
"""A deployment whose clocks run fast enough for tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """The servers under a stack."""

    rabbit: RabbitNode
    postgres: PostgresServer
    redis: RedisServer


class RealStack:
    """Processes that can be killed, frozen, stopped and started again."""

    def __init__(
        self,
        folder: Path,
        backends: Backends,
        bus: Mapping[str, Proxy],
        database: Proxy,
        settings: Mapping[str, Mapping[str, str]],
        *,
        services: Sequence[str] = SERVICES,
        database_name: str = "",
    ) -> None:
        """Keep files in *folder*; *bus* and *database* are the links to the shared servers."""
        self.backends = backends
        self.bus = bus
        """The link of each service to RabbitMQ."""
        self.database = database
        """The link to PostgreSQL."""
        self._folder = folder
        self._settings = settings
        self._services = services
        self._keys = KeyRing.generate(SERVICES)
        self._id_key = secrets.token_hex(16)
        self._ports = {
            (name, replica): free_port()
            for name in SERVICES
            for replica in (WORKERS if name == "agents" else REPLICAS)
        }
        self._running: dict[tuple[str, int], Process] = {}
        self._altered: set[tuple[str, int]] = set()
        self._database = database_name or f"stack_{secrets.token_hex(4)}"
        keys_file = folder / "api-keys.jsonl"
        self.api_key = add_key(keys_file, KeyHolder(tenant="acme", user="ann"))
        """Of ann at acme."""
        self.stranger_key = add_key(keys_file, KeyHolder(tenant="zenith", user="ann"))
        """Of ann too, at another tenant."""

    def processes(self) -> Mapping[str, int]:
        """Return the process ids of the services and the servers under them."""
        servers = {
            "rabbitmq": self.backends.rabbit.pid,
            "postgres": self.backends.postgres.pid,
            "redis": self.backends.redis.pid,
        }
        return servers | {
            name: p.pid for (name, replica), p in self._running.items() if replica == 1
        }

    @property
    def signing_keys(self) -> Mapping[str, str]:
        """The private keys of the services, in PEM: to call as one of them."""
        return self._keys.private

    def address(self, service: str) -> str:
        """Where clients find all replicas of a service."""
        ports = (self._ports[service, replica] for replica in REPLICAS)
        return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)

    def client(self, api_key: str = "") -> Maieutic:
        """Return a client of the gateway's replicas, to be used as a context."""
        return Maieutic.connect(self.address("gateway"), api_key=api_key or self.api_key)

    def calls(self) -> list[str]:
        """The turn of each model call ever started, those of killed workers too."""
        file = self._folder / "calls"
        return file.read_text().split() if file.exists() else []

    async def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Ask the archive's database."""
        connection = await asyncpg.connect(self.backends.postgres.url_of(self._database))
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def start(self, service: str, *, replica: int = 1, **settings: str) -> None:
        """Start a process and wait for its health; *settings* go over its usual environment."""
        process = Process(
            [sys.executable, "-m", f"services.{service}.main"],
            log=self._log(service, replica),
            env={**self._environment(service, replica), **_variables(settings)},
        )
        self._running[service, replica] = process
        if settings:
            self._altered.add((service, replica))
        await process.started(lambda: _serving(self._ports[service, replica]))

    async def stop(self, service: str, *, replica: int = 1) -> None:
        """Send SIGTERM and wait for the end, as a rolling restart does."""
        await self._running.pop((service, replica)).stop()

    async def kill9(self, service: str, *, replica: int = 1) -> None:
        """End a process without warning."""
        await self._running.pop((service, replica)).kill()

    def freeze(self, service: str, *, replica: int = 1) -> None:
        """Hold a process, as if its machine slept."""
        os.killpg(self._running[service, replica].pid, signal.SIGSTOP)

    def thaw(self, service: str, *, replica: int = 1) -> None:
        """Let a frozen process go on as if nothing had happened."""
        os.killpg(self._running[service, replica].pid, signal.SIGCONT)

    async def make_whole(self) -> None:
        """Have one replica of each service, and links that work, whatever a test has done."""
        for link in (*self.bus.values(), self.database):
            _heal(link)
        for service, replica in list(self._running):
            self.thaw(service, replica=replica)
            if replica != REPLICAS[0] or (service, replica) in self._altered:
                await self.kill9(service, replica=replica)
        self._altered.clear()
        absent = [name for name in self._services if (name, REPLICAS[0]) not in self._running]
        await asyncio.gather(*(self.start(name) for name in absent))

    async def replace(self, service: str, **settings: str) -> None:
        """Run a service with other settings."""
        await self.kill9(service)
        await self.start(service, replica=REPLICAS[0], **settings)

    def logs(self) -> list[tuple[str, str]]:
        """Return each process's name and the end of its log."""
        return [
            (log.stem, "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]))
            for log in sorted(self._folder.glob("*.log"))
        ]

    def stub_channel(self, service: str, *, caller: str) -> AbstractAsyncContextManager[Channel]:
        """Open a channel to a service inside, signed as another one."""
        signer = self._keys.signer(caller)
        return open_channel(self.address(service), service=service, signer=signer)

    async def create_database(self) -> None:
        connection = await asyncpg.connect(self.backends.postgres.url)
        try:
            await connection.execute(f"CREATE DATABASE {self._database}")
        finally:
            await connection.close()

    async def end(self) -> None:
        await asyncio.gather(*(process.kill() for process in self._running.values()))

    def _log(self, service: str, replica: int) -> Path:
        return self._folder / f"{service}-{replica}.log"

    def _environment(self, service: str, replica: int) -> Mapping[str, str]:
        bus = self.bus.get(service)
        return _variables(
            {
                "SERVER_LISTEN": f"127.0.0.1:{self._ports[service, replica]}",
                "SIGNING_KEY": self._keys.private[service],
                "PUBLIC_KEYS": json.dumps(self._keys.public),
                "ID_KEY": self._id_key,
                "SESSION_ADDRESS": self.address("session"),
                "RETRIEVAL_ADDRESS": self.address("retrieval"),
                "ARCHIVE_ADDRESS": self.address("persistence"),
                "REDIS_URL": self.backends.redis.url,
                "BUS_URL": f"amqp://guest:guest@127.0.0.1:{bus.port}/" if bus else "",
                "ARCHIVE_URL": self._database_url(self.database.port),
                "INDEX_URL": f"local:///{self._folder / 'vectors'}",
                "API_KEYS_FILE": str(self._folder / "api-keys.jsonl"),
                "MODEL_CALLS_FILE": str(self._folder / "calls"),
                "TELEMETRY_LOG_FORM": "console",
                "SERVER_STREAM_GRACE": "0.1",
                "SERVER_GRACE": "1",
                **self._settings.get(service, {}),
            }
        )

    def _database_url(self, port: int) -> str:
        url = self.backends.postgres.url_of(self._database)
        return url.replace(f":{self.backends.postgres.port}/", f":{port}/")


@asynccontextmanager
async def real_stack(
    rabbit: RabbitNode,
    postgres: PostgresServer,
    *,
    redis: RedisServer | None = None,
    settings: Mapping[str, Mapping[str, str]] = TIMING,
    services: Sequence[str] = SERVICES,
    database_name: str = "",
) -> AsyncIterator[RealStack]:
    """Run every service in a process of its own, on a fresh database and empty queues.

    Without *redis* the stack gets a redis-server of its own, which keeps every answered write.
    *settings* are each service's own, over its usual environment; *services* those that run.
    *database_name* is that of the
    archive's database, which is made.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(scratch_folder("stack"))
        if redis is None:
            redis = await stack.enter_async_context(redis_server(append_only=True))
        backends = Backends(rabbit=rabbit, postgres=postgres, redis=redis)
        bus = {name: await stack.enter_async_context(proxy(rabbit.port)) for name in ON_THE_BUS}
        database = await stack.enter_async_context(proxy(postgres.port))
        running = RealStack(
            folder,
            backends,
            bus,
            database,
            settings,
            services=services,
            database_name=database_name,
        )
        await running.create_database()
        await without_queues(rabbit)
        stack.push_async_callback(running.end)
        await running.make_whole()
        yield running


def _heal(link: Proxy) -> None:
    link.accept()
    for direction in Direction:
        link.delay(direction, 0)
        link.resume(direction)


async def without_queues(rabbit: RabbitNode) -> None:
    """Remove what an earlier stack has left; the services declare their queues again."""
    async with await aio_pika.connect(rabbit.url) as connection:
        channel = await connection.channel()
        for queue in maieutic_topology().queues:
            await channel.queue_delete(queue.name)


async def _serving(port: int) -> bool:
    request = health_pb2.HealthCheckRequest()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=1)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"MAIEUTIC_{name.upper()}": value for name, value in settings.items()}


def shown(logs: Sequence[tuple[str, str]]) -> str:
    """Return logs as a failed test prints them."""
    return "\n".join(f"== {name}\n{text}" for name, text in logs)
