"""The archive's composition root."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc

from maieutic.archive.v1.archive_service_pb2_grpc import add_ArchiveServiceServicer_to_server
from maieutic.archive.v1.artifact_store_service_pb2_grpc import (
    add_ArtifactStoreServiceServicer_to_server,
)
from maieutic.archive.v1.index_registry_service_pb2_grpc import (
    add_IndexRegistryServiceServicer_to_server,
)
from maieutic.v1.dead_letter_admin_service_pb2_grpc import (
    add_DeadLetterAdminServiceServicer_to_server,
)
from maieutic.v1.usage_admin_service_pb2_grpc import add_UsageAdminServiceServicer_to_server
from maieutic.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server
from services.persistence.adapters.archive import open_archive
from services.persistence.artifact_rpc import ArtifactCalls
from services.persistence.artifact_sweeper import ArtifactSweeper
from services.persistence.confirming import Confirmations
from services.persistence.consumer import Consumer
from services.persistence.dead_letter_rpc import DeadLetterServicer
from services.persistence.dead_letters import DeadLetterKeeper, DeadLetterSweeper
from services.persistence.index_rpc import IndexCalls
from services.persistence.ports import Archive
from services.persistence.redriving import Redriving
from services.persistence.rpc import ArchiveServicer
from services.persistence.settings import PersistenceSettings
from services.persistence.sweeper import Sweeper
from services.persistence.usage_rpc import UsageAdminServicer, UsageServicer
from services.runtime.bus import Bus
from services.runtime.channel import open_channel
from services.runtime.identity import Signer, Verifier
from services.runtime.lifecycle import run
from services.runtime.rabbitmq import RabbitMQBus
from services.runtime.server import RunningServer, serving
from services.runtime.settings import load
from services.runtime.telemetry import telemetry
from services.runtime.topology import maieutic_topology

SERVICE = "persistence"
SERVICES = (
    "maieutic.archive.v1.ArchiveService",
    "maieutic.archive.v1.IndexRegistryService",
    "maieutic.archive.v1.ArtifactStoreService",
    "maieutic.v1.DeadLetterAdminService",
    "maieutic.v1.UsageService",
    "maieutic.v1.UsageAdminService",
)


@asynccontextmanager
async def persistence_service(
    settings: PersistenceSettings,
    *,
    archive: Archive,
    bus: Bus,
    signer: Signer,
    verifier: Verifier,
) -> AsyncIterator[RunningServer]:
    """Serve reads and archive what the bus brings during the block. `embedded` calls this too."""

    def register(server: grpc.aio.Server) -> Sequence[str]:
        servicer = ArchiveServicer(archive)
        add_ArchiveServiceServicer_to_server(servicer, server)
        add_IndexRegistryServiceServicer_to_server(IndexCalls(archive), server)
        artifacts = ArtifactCalls(archive, settings.artifacts.limits)
        add_ArtifactStoreServiceServicer_to_server(artifacts, server)
        letters = _dead_letter_servicer(settings, archive, bus)
        add_DeadLetterAdminServiceServicer_to_server(letters, server)
        add_UsageServiceServicer_to_server(UsageServicer(archive), server)
        add_UsageAdminServiceServicer_to_server(UsageAdminServicer(archive), server)
        return SERVICES

    async with (
        open_channel(
            settings.session_address, service="session", signer=signer, options=settings.channel
        ) as channel,
        # Reads are served until the last batch is archived: confirming it may need them.
        serving(settings.server, register, verifier=verifier) as running,
        _archiving(settings, archive, bus, Confirmations(channel)),
    ):
        yield running


def _dead_letter_servicer(
    settings: PersistenceSettings, archive: Archive, bus: Bus
) -> DeadLetterServicer:
    topology = maieutic_topology()
    return DeadLetterServicer(
        letters=archive,
        redriving=Redriving(letters=archive, bus=bus, topology=topology),
        topology=topology,
        keep=settings.dead_letters.keep,
    )


@asynccontextmanager
async def _archiving(
    settings: PersistenceSettings, archive: Archive, bus: Bus, confirmations: Confirmations
) -> AsyncIterator[None]:
    """Consume and sweep during the block; if either fails, the block is cancelled."""
    consumer = Consumer(
        bus=bus, archive=archive, confirmations=confirmations, options=settings.batch
    )
    sweeper = Sweeper(archive=archive, confirmations=confirmations, options=settings.ensure)
    keeper = DeadLetterKeeper(
        bus=bus, letters=archive, topology=maieutic_topology(), options=settings.dead_letters
    )
    dead_sweeper = DeadLetterSweeper(archive, settings.dead_letters)
    artifact_sweeper = ArtifactSweeper(archive, settings.artifacts)
    async with asyncio.TaskGroup() as group:
        running = (consumer, sweeper, keeper, dead_sweeper, artifact_sweeper)
        tasks = [group.create_task(each.run()) for each in running]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def main(settings: PersistenceSettings) -> None:
    """Run until cancelled."""
    signer = Signer(SERVICE, settings.signing_key)
    verifier = Verifier(settings.public_keys)
    async with (
        telemetry(SERVICE, settings.telemetry),
        open_archive(
            settings.archive_url,
            pool=settings.pool,
            accounts=settings.accounts,
            migrate_timeout=settings.migrate_timeout,
        ) as archive,
        RabbitMQBus.connect(settings.bus_url, maieutic_topology()) as bus,
        persistence_service(
            settings, archive=archive, bus=bus, signer=signer, verifier=verifier
        ) as running,
    ):
        await running.wait()


if __name__ == "__main__":
    run(main(load(PersistenceSettings)))
