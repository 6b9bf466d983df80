"""What the persistence service does with facts, in small: keep them, then confirm them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import grpc

from maieutic.bus.v1.bus_pb2 import SessionChanged, SessionDeleted, TurnAccepted, TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as pb
from services.runtime.bus import Bus, Delivery, OutgoingMessage
from tests.fakes.cold_archive import ColdArchive

if TYPE_CHECKING:  # the generated module has one class for both kinds of channel
    from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceAsyncStub

AGAIN_SECONDS = 0.02


class Archiver:
    """Consumes `persist.v1`; `paused` leaves the facts in their queue."""

    def __init__(self, archive: ColdArchive, session: "TurnWorkServiceAsyncStub") -> None:
        self._archive = archive
        self._session = session
        self._going = asyncio.Event()
        self._going.set()
        self.facts: list[tuple[str, bytes]] = []
        """Everything that was kept, in the order it came."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave all facts in their queue until the context is left."""
        self._going.clear()
        try:
            yield
        finally:
            self._going.set()

    async def publish(self, bus: Bus, finished: TurnFinished) -> None:
        """Publish an outcome as a worker does."""
        await bus.publish(
            OutgoingMessage(
                exchange="results",
                routing_key="turn.finished",
                body=finished.SerializeToString(),
                message_id=finished.job.turn_id,
            )
        )

    async def run(self, bus: Bus) -> None:
        async with bus.consume("persist.v1", prefetch=10) as deliveries:
            async for delivery in deliveries:
                await self._going.wait()
                await self._keep(delivery)
                await delivery.ack()

    async def _keep(self, delivery: Delivery) -> None:
        self.facts.append((delivery.routing_key, delivery.body))
        request = pb.MarkArchivedRequest()
        if delivery.routing_key == "session.changed":
            changed = SessionChanged.FromString(delivery.body)
            self._change(changed, request)
        elif delivery.routing_key == "turn.accepted":
            job = TurnAccepted.FromString(delivery.body).job
            self._archive.accepted.setdefault(job.turn_id, job)
            request.accepted_turn_ids.append(job.turn_id)
            self._change(SessionChanged(tenant=job.tenant, session=job.session), request)
        elif delivery.routing_key == "turn.finished":
            finished = TurnFinished.FromString(delivery.body)
            request.turns.append(self._archive.keep(finished))
            if finished.HasField("session"):
                changed = SessionChanged(tenant=finished.job.tenant, session=finished.session)
                self._change(changed, request)
        else:
            deleted = SessionDeleted.FromString(delivery.body)
            self._archive.deleted[deleted.session_id] = deleted
        await self._confirm(request)

    async def _confirm(self, request: pb.MarkArchivedRequest) -> None:
        """Confirm until the session service has taken it."""
        while True:
            try:
                await self._session.MarkArchived(request)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    def _change(self, changed: SessionChanged, request: pb.MarkArchivedRequest) -> None:
        self._archive.change(changed)
        kept = self._archive.sessions[changed.session.session_id].session
        notes = changed.annotations.revision if changed.HasField("annotations") else 0
        request.sessions.add(
            session_id=kept.session_id, revision=kept.revision, annotations_revision=notes
        )


@asynccontextmanager
async def archiving(
    bus: Bus, archive: ColdArchive, session: "TurnWorkServiceAsyncStub"
) -> AsyncIterator[Archiver]:
    """Archive during the block."""
    archiver = Archiver(archive, session)
    task = asyncio.create_task(archiver.run(bus))
    try:
        yield archiver
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
