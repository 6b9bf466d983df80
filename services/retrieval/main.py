"""The retrieval service's composition root."""

from collections.abc import AsyncIterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from functools import partial

import grpc

from maieutic.v1.document_admin_service_pb2_grpc import (
    add_DocumentAdminServiceServicer_to_server,
)
from maieutic.v1.document_service_pb2_grpc import add_DocumentServiceServicer_to_server
from maieutic.v1.index_admin_service_pb2_grpc import add_IndexAdminServiceServicer_to_server
from services.retrieval.adapters.embedder import open_embedder
from services.retrieval.adapters.index import checked_url, erase_index, open_index
from services.retrieval.admin_rpc import DocumentAdminServicer
from services.retrieval.catalog import Catalog
from services.retrieval.checking import Checker, Inventory
from services.retrieval.claims import Claims
from services.retrieval.index_rpc import IndexAdminServicer
from services.retrieval.ingesting import Ingester
from services.retrieval.jobs import Jobs, Worker
from services.retrieval.keeping import Keeper
from services.retrieval.library import Library
from services.retrieval.moving import Exporter, Importer
from services.retrieval.parsing.parser import Parser
from services.retrieval.ports import Embedder, VectorIndex
from services.retrieval.registry import Registry
from services.retrieval.rpc import DocumentServicer
from services.retrieval.settings import RetrievalSettings
from services.retrieval.upkeep import Upkeep, Uses
from services.retrieval.uploading import Uploads
from services.retrieval.versions import Openers, Versions
from services.retrieval.watching import Watchers
from services.runtime.bus import Bus
from services.runtime.channel import open_channel
from services.runtime.identity import Signer, Verifier
from services.runtime.lifecycle import run
from services.runtime.rabbitmq import RabbitMQBus
from services.runtime.server import RunningServer, serving
from services.runtime.settings import load
from services.runtime.telemetry import telemetry
from services.runtime.topology import maieutic_topology

SERVICE = "retrieval"
SERVED = (
    "maieutic.v1.DocumentService",
    "maieutic.v1.DocumentAdminService",
    "maieutic.v1.IndexAdminService",
)


@asynccontextmanager
async def retrieval_service(
    settings: RetrievalSettings,
    *,
    bus: Bus,
    signer: Signer,
    verifier: Verifier,
    index: VectorIndex | None = None,
    embedder: Embedder | None = None,
) -> AsyncIterator[RunningServer]:
    """Serve and index during the block, with the settings' index and embedder unless given."""
    checked_url(settings.index_url, settings.pinecone)
    openers = _openers(settings, index, embedder)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(
            open_channel(
                settings.archive_address,
                service="persistence",
                signer=signer,
                options=settings.channel,
            )
        )
        opening = Versions.open(Catalog(channel), openers, settings)
        versions = await stack.enter_async_context(opening)
        parser = await stack.enter_async_context(Parser.open(settings.parsing))
        parts = _parts(settings, channel, bus, _Tools(versions, parser))
        await stack.enter_async_context(parts.worker.working())
        await stack.enter_async_context(parts.upkeep.running())

        def register(server: grpc.aio.Server) -> Sequence[str]:
            add_DocumentServiceServicer_to_server(parts.servicer, server)
            add_DocumentAdminServiceServicer_to_server(parts.admin, server)
            add_IndexAdminServiceServicer_to_server(parts.indexes, server)
            return list(SERVED)

        async with serving(settings.server, register, verifier=verifier) as running:
            yield running


@dataclass(frozen=True, slots=True)
class _Tools:
    """What documents are brought into."""

    versions: Versions
    parser: Parser


def _openers(
    settings: RetrievalSettings, index: VectorIndex | None, embedder: Embedder | None
) -> Openers:
    """Return how versions are opened; what is given stands for what the settings name."""

    def open_model(url: str) -> AbstractAsyncContextManager[Embedder]:
        if embedder is not None and url == settings.embedder:
            return nullcontext(embedder)
        return open_embedder(url, settings.pinecone, cache_bytes=settings.query_cache)

    def open_space(space: str, model: Embedder) -> AbstractAsyncContextManager[VectorIndex]:
        if index is not None and space == model.name:
            return nullcontext(index)
        return open_index(settings.index_url, model, settings.pinecone, space=space)

    return Openers(
        embedder=open_model, index=open_space, erase=partial(erase_index, settings.index_url)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What answers calls, and what works apart from them."""

    servicer: DocumentServicer
    admin: DocumentAdminServicer
    indexes: IndexAdminServicer
    worker: Worker
    upkeep: Upkeep


def _library(
    registry: Registry, uses: Uses, jobs: Jobs, watchers: Watchers, tools: _Tools
) -> Library:
    return Library(
        registry=registry,
        uses=uses,
        jobs=jobs,
        watchers=watchers,
        versions=tools.versions,
        parser=tools.parser,
    )


def _parts(
    settings: RetrievalSettings,
    channel: grpc.aio.Channel,
    bus: Bus,
    tools: _Tools,
) -> _Parts:
    ingest, versions, parser = settings.ingest, tools.versions, tools.parser
    watchers, jobs, catalog = Watchers(), Jobs(bus), Catalog(channel)
    registry = Registry(channel, settings.limits)
    claims = Claims(channel, lease=ingest.lease, most_attempts=ingest.attempts)
    ingester = Ingester(
        claims=claims, versions=versions, parser=parser, watchers=watchers, options=ingest
    )
    library = _library(registry, Uses(channel), jobs, watchers, tools)
    upkeep, inventory = Upkeep(channel, jobs, settings.expiry), Inventory(channel)
    keeper = Keeper(
        catalog=catalog, versions=versions, inventory=inventory, claims=claims, jobs=jobs
    )
    importer = Importer(
        catalog=catalog,
        versions=versions,
        inventory=inventory,
        keeper=keeper,
        most_bytes=settings.import_bytes,
    )
    exporter = Exporter(catalog=catalog, versions=versions, inventory=inventory)
    uploads = Uploads(most_bytes=settings.parsing.file_bytes)
    return _Parts(
        servicer=DocumentServicer(library=library, registry=registry, uploads=uploads),
        admin=DocumentAdminServicer(
            Checker(inventory=inventory, versions=versions, jobs=jobs), upkeep
        ),
        indexes=IndexAdminServicer(keeper, exporter, importer),
        upkeep=upkeep,
        worker=Worker(bus=bus, ingester=ingester, claims=claims, jobs=jobs, options=ingest),
    )


async def main(settings: RetrievalSettings) -> None:
    """Run until cancelled."""
    signer, verifier = Signer(SERVICE, settings.signing_key), Verifier(settings.public_keys)
    async with (
        telemetry(SERVICE, settings.telemetry),
        RabbitMQBus.connect(settings.bus_url, maieutic_topology()) as bus,
        retrieval_service(settings, bus=bus, signer=signer, verifier=verifier) as running,
    ):
        await running.wait()


if __name__ == "__main__":
    run(main(load(RetrievalSettings)))
