"""The gateway's composition root."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from maieutic.v1.admin_service_pb2_grpc import (
    AdminServiceStub,
    add_AdminServiceServicer_to_server,
)
from maieutic.v1.artifact_service_pb2_grpc import (
    ArtifactServiceStub,
    add_ArtifactServiceServicer_to_server,
)
from maieutic.v1.dead_letter_admin_service_pb2_grpc import (
    DeadLetterAdminServiceStub,
    add_DeadLetterAdminServiceServicer_to_server,
)
from maieutic.v1.document_admin_service_pb2_grpc import (
    DocumentAdminServiceStub,
    add_DocumentAdminServiceServicer_to_server,
)
from maieutic.v1.document_service_pb2_grpc import (
    DocumentServiceStub,
    add_DocumentServiceServicer_to_server,
)
from maieutic.v1.index_admin_service_pb2_grpc import (
    IndexAdminServiceStub,
    add_IndexAdminServiceServicer_to_server,
)
from maieutic.v1.session_service_pb2_grpc import (
    SessionServiceStub,
    add_SessionServiceServicer_to_server,
)
from maieutic.v1.specification_service_pb2_grpc import (
    SpecificationServiceStub,
    add_SpecificationServiceServicer_to_server,
)
from maieutic.v1.turn_service_pb2_grpc import TurnServiceStub, add_TurnServiceServicer_to_server
from maieutic.v1.usage_admin_service_pb2_grpc import (
    UsageAdminServiceStub,
    add_UsageAdminServiceServicer_to_server,
)
from maieutic.v1.usage_service_pb2_grpc import UsageServiceStub, add_UsageServiceServicer_to_server
from services.gateway.adapters.key_file import KeyFile, ensure_key
from services.gateway.admission import (
    ADMIN_SERVICE,
    DEAD_LETTER_ADMIN_SERVICE,
    DOCUMENT_ADMIN_SERVICE,
    INDEX_ADMIN_SERVICE,
    USAGE_ADMIN_SERVICE,
    admitted,
)
from services.gateway.artifact_rpc import Artifacts
from services.gateway.model import KeyHolder, TenantShares
from services.gateway.ports import KeyStore
from services.gateway.relay import explaining_absence
from services.gateway.rpc import (
    Admin,
    DeadLetterAdmin,
    DocumentAdmin,
    Documents,
    IndexAdmin,
    Sessions,
)
from services.gateway.settings import GatewaySettings
from services.gateway.specification_rpc import Specifications
from services.gateway.turn_rpc import Turns
from services.gateway.usage_rpc import Usage, UsageAdmin
from services.gateway.validation import CheckedRequests, RequestRules
from services.runtime.channel import open_channel
from services.runtime.identity import Signer
from services.runtime.lifecycle import run
from services.runtime.server import RunningServer, serving
from services.runtime.settings import load
from services.runtime.telemetry import telemetry

SERVICE = "gateway"
PEERS = {
    "maieutic.v1.SessionService": "session",
    "maieutic.v1.TurnService": "session",
    "maieutic.v1.SpecificationService": "session",
    "maieutic.v1.ArtifactService": "session",
    "maieutic.v1.DocumentService": "retrieval",
    ADMIN_SERVICE: "session",
    DOCUMENT_ADMIN_SERVICE: "retrieval",
    INDEX_ADMIN_SERVICE: "retrieval",
    DEAD_LETTER_ADMIN_SERVICE: "session",
    "maieutic.v1.UsageService": "session",
    USAGE_ADMIN_SERVICE: "session",
}
"""The service behind each public one."""
ADMIN = KeyHolder(tenant="default", user="admin", may_act_for_users=True, admin=True)
"""Whom the first key is for."""


@asynccontextmanager
async def gateway_service(
    settings: GatewaySettings, *, keys: KeyStore, signer: Signer
) -> AsyncIterator[RunningServer]:
    """Serve the public API during the block; leaving it drains."""
    shares = TenantShares(calls=settings.calls_per_tenant, streams=settings.streams_per_tenant)
    arounds = admitted(keys, shares), explaining_absence(PEERS)
    checked = CheckedRequests(RequestRules.packaged(PEERS))
    async with (
        open_channel(
            settings.session_address, service="session", signer=signer, options=settings.channel
        ) as session,
        open_channel(
            settings.retrieval_address, service="retrieval", signer=signer, options=settings.channel
        ) as retrieval,
        serving(
            settings.server,
            _registering(session, retrieval, settings),
            arounds=arounds,
            interceptors=[checked],
        ) as running,
    ):
        yield running


def _registering(
    session: grpc.aio.Channel, retrieval: grpc.aio.Channel, settings: GatewaySettings
) -> Callable[[grpc.aio.Server], Sequence[str]]:
    documents = DocumentServiceStub(retrieval)
    ingest = settings.ingest_timeout

    def register(server: grpc.aio.Server) -> Sequence[str]:
        sessions, turns = SessionServiceStub(session), TurnServiceStub(session)
        add_SessionServiceServicer_to_server(Sessions(sessions, documents), server)
        add_TurnServiceServicer_to_server(Turns(turns, documents), server)
        add_AdminServiceServicer_to_server(Admin(AdminServiceStub(session)), server)
        letters = DeadLetterAdmin(DeadLetterAdminServiceStub(session))
        add_DeadLetterAdminServiceServicer_to_server(letters, server)
        add_UsageServiceServicer_to_server(Usage(UsageServiceStub(session)), server)
        all_usage = UsageAdmin(UsageAdminServiceStub(session))
        add_UsageAdminServiceServicer_to_server(all_usage, server)
        found = Specifications(SpecificationServiceStub(session))
        add_SpecificationServiceServicer_to_server(found, server)
        artifacts = Artifacts(ArtifactServiceStub(session))
        add_ArtifactServiceServicer_to_server(artifacts, server)
        admin = DocumentAdmin(DocumentAdminServiceStub(retrieval), timeout=ingest)
        add_DocumentAdminServiceServicer_to_server(admin, server)
        indexes = IndexAdmin(IndexAdminServiceStub(retrieval), timeout=ingest)
        add_IndexAdminServiceServicer_to_server(indexes, server)
        add_DocumentServiceServicer_to_server(Documents(documents, ingest_timeout=ingest), server)
        return list(PEERS)

    return register


async def main(settings: GatewaySettings) -> None:
    """Serve until cancelled."""
    keys_file = Path(settings.api_keys_file)
    if settings.bootstrap_key_file:
        bootstrap = Path(settings.bootstrap_key_file)
        await asyncio.to_thread(ensure_key, keys_file, bootstrap, ADMIN)
    keys = await KeyFile.open(keys_file)
    signer = Signer(SERVICE, settings.signing_key)
    async with (
        telemetry(SERVICE, settings.telemetry),
        gateway_service(settings, keys=keys, signer=signer) as running,
    ):
        await running.wait()


if __name__ == "__main__":
    run(main(load(GatewaySettings)))
