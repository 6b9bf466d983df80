"""The registry of index versions: gRPC in, registry call, gRPC out."""

from dataclasses import asdict
from typing import Any, TypeAlias

import grpc

from maieutic.archive.v1 import index_registry_service_pb2 as pb
from maieutic.archive.v1.index_registry_service_pb2_grpc import IndexRegistryServiceServicer
from maieutic.v1.index_admin_service_pb2 import IndexVersion as IndexVersionMessage
from services.persistence.index_ports import IndexRegistry, IndexStanding, IndexVersion
from services.persistence.requests import for_services
from services.runtime.errors import InvalidArgument

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class IndexCalls(IndexRegistryServiceServicer):
    """Index versions, for services."""

    def __init__(self, indexes: IndexRegistry) -> None:
        self._indexes = indexes

    async def RegisterIndexVersion(
        self, request: pb.RegisterIndexVersionRequest, context: Context
    ) -> pb.RegisterIndexVersionResponse:
        for_services()
        version = _version(request.registration)
        await self._indexes.register_index(version, first_only=request.first_only)
        return pb.RegisterIndexVersionResponse()

    async def ListRegisteredIndexVersions(
        self, request: pb.ListRegisteredIndexVersionsRequest, context: Context
    ) -> pb.ListRegisteredIndexVersionsResponse:
        for_services()
        found = await self._indexes.index_versions(counted=request.counted)
        return pb.ListRegisteredIndexVersionsResponse(versions=map(_registered, found))

    async def PointToIndexVersion(
        self, request: pb.PointToIndexVersionRequest, context: Context
    ) -> pb.PointToIndexVersionResponse:
        for_services()
        pointed = await self._indexes.switch_index(request.version_id, force=request.force)
        return pb.PointToIndexVersionResponse(version_id=pointed)

    async def RemoveIndexVersion(
        self, request: pb.RemoveIndexVersionRequest, context: Context
    ) -> pb.RemoveIndexVersionResponse:
        for_services()
        await self._indexes.drop_index(request.version_id, gone=request.gone)
        return pb.RemoveIndexVersionResponse()


def _version(registration: pb.RegisteredIndexVersion) -> IndexVersion:
    version = registration.version
    if not version.version_id:
        raise InvalidArgument("registration.version.version_id", "must not be empty")
    return IndexVersion(
        version_id=version.version_id,
        label=registration.label,
        embedder_url=version.embedder_url,
        embedder=version.embedder,
        dimension=version.dimension,
        chunk_characters=version.chunk_characters,
        chunk_overlap=version.chunk_overlap,
        space=registration.space,
    )


def _registered(standing: IndexStanding) -> pb.RegisteredIndexVersion:
    own = asdict(standing.version)
    label, space = own.pop("label"), own.pop("space")
    message = IndexVersionMessage(
        **own,
        current=standing.current,
        previous=standing.previous,
        building=standing.building,
        dropping=standing.dropping,
        documents=standing.documents,
        documents_failed=standing.failed,
        documents_total=standing.total,
    )
    return pb.RegisteredIndexVersion(version=message, label=label, space=space)
