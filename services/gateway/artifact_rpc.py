"""The public ArtifactService, at the session service."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from maieutic.v1 import artifact_service_pb2 as pb
from maieutic.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from services.gateway.relay import relayed

if TYPE_CHECKING:  # typing names of the generated stubs
    from maieutic.v1.artifact_service_pb2_grpc import ArtifactServiceAsyncStub

    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext


class Artifacts(ArtifactServiceServicer):
    """The files that agents make."""

    def __init__(self, service: "ArtifactServiceAsyncStub") -> None:
        self._service = service

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        """Pass on."""
        return await self._service.ListArtifacts(request)

    async def GetArtifact(
        self, request: pb.GetArtifactRequest, context: Context
    ) -> pb.GetArtifactResponse:
        """Pass on."""
        return await self._service.GetArtifact(request)

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        """Pass on part by part."""
        async for response in relayed(self._service.DownloadArtifact(request)):
            yield response
