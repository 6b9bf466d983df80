"""The persistence service with everything around it, for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import Message

from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceStub
from services.persistence.main import persistence_service
from services.persistence.ports import Archive
from services.persistence.settings import BatchOptions, EnsureOptions, PersistenceSettings
from services.runtime.bus import OutgoingMessage
from services.runtime.channel import open_channel
from services.runtime.keyring import KeyRing
from services.runtime.memory import MemoryBus
from services.runtime.server import MEBIBYTE, ServerOptions, serving
from services.runtime.topology import maieutic_topology
from tests.fakes.archived_marks import Marks, register_marks
from tests.persistence.stories import ROUTING_KEYS

if TYPE_CHECKING:
    from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceAsyncStub

QUEUE = "persist.v1"
DEAD_QUEUE = "dead.v1"
LOOPBACK = ServerOptions(grace=0.1, stream_grace=0.05, max_message_bytes=16 * MEBIBYTE)
SESSION = ServerOptions(grace=0.1, stream_grace=0.05)
"""Takes requests as large as the session service does, and no larger."""
BRISK = BatchOptions(size=20, wait=0.01, drain=0.2)
RESTING = EnsureOptions(interval=3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """A running archive, its bus, and the session service that it confirms to."""

    bus: MemoryBus
    marks: Marks
    keys: KeyRing
    address: str

    async def publish(self, message: Message, *, message_id: str = "") -> None:
        """Publish as the session service and the workers do."""
        await self.bus.publish(outgoing(message, message_id=message_id))

    async def publish_raw(self, routing_key: str, body: bytes, *, message_id: str = "") -> None:
        await self.bus.publish(_outgoing(routing_key, body, message_id))

    def drained(self) -> bool:
        """Whether all results and all dead letters have been taken from the bus and answered."""
        queues = (QUEUE, DEAD_QUEUE)
        return not any(self.bus.depth(queue) + self.bus.held(queue) for queue in queues)

    @asynccontextmanager
    async def stub(self, service: str = "session") -> AsyncIterator["ArchiveServiceAsyncStub"]:
        async with self.channel(service) as channel:
            yield ArchiveServiceStub(channel)

    @asynccontextmanager
    async def channel(self, service: str) -> AsyncIterator[grpc.aio.Channel]:
        signer = self.keys.signer(service)
        async with open_channel(self.address, service="persistence", signer=signer) as channel:
            yield channel


def outgoing(message: Message, *, message_id: str = "") -> OutgoingMessage:
    """Return what the session service and the workers would publish."""
    return _outgoing(ROUTING_KEYS[type(message)], message.SerializeToString(), message_id)


def _outgoing(routing_key: str, body: bytes, message_id: str) -> OutgoingMessage:
    return OutgoingMessage(
        exchange="results",
        routing_key=routing_key,
        body=body,
        message_id=message_id or f"{routing_key}-{hash(body)}",
    )


async def waiting(*messages: Message) -> MemoryBus:
    """Return a bus on which all of these wait before anybody consumes."""
    bus = MemoryBus(maieutic_topology())
    for message in messages:
        await bus.publish(outgoing(message))
    return bus


@asynccontextmanager
async def office(
    archive: Archive,
    *,
    bus: MemoryBus | None = None,
    marks: Marks | None = None,
    batch: BatchOptions = BRISK,
    ensure: EnsureOptions = RESTING,
) -> AsyncIterator[Office]:
    """Run the service during the block, on a bus that outlives it if one is given."""
    keys = KeyRing.generate(["session", "retrieval", "persistence", "gateway"])
    marks, bus = marks or Marks(), bus or MemoryBus(maieutic_topology())
    async with serving(SESSION, register_marks(marks), verifier=keys.verifier()) as session:
        settings = PersistenceSettings(
            server=LOOPBACK, session_address=session.address, batch=batch, ensure=ensure
        )
        async with persistence_service(
            settings,
            archive=archive,
            bus=bus,
            signer=keys.signer("persistence"),
            verifier=keys.verifier(),
        ) as running:
            yield Office(bus=bus, marks=marks, keys=keys, address=running.address)
