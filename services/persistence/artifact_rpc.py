"""The files that agents make: gRPC in, archive call, gRPC out."""

from typing import Any, TypeAlias

import grpc

from maieutic.archive.v1 import artifact_store_service_pb2 as pb
from maieutic.archive.v1.artifact_store_service_pb2_grpc import ArtifactStoreServiceServicer
from services.persistence.artifact_ports import ArtifactLimits, Artifacts
from services.persistence.artifacts import new_artifact
from services.persistence.errors import ArtifactNotFound
from services.persistence.facts import UNKNOWN_TIME
from services.persistence.model import Place
from services.persistence.requests import for_services, limited, place

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

START = Place(time=UNKNOWN_TIME, id="")


class ArtifactCalls(ArtifactStoreServiceServicer):
    """The store of artifacts, for services: they vouch for tenant and user."""

    def __init__(self, artifacts: Artifacts, limits: ArtifactLimits) -> None:
        self._artifacts = artifacts
        self._limits = limits

    async def PutArtifact(
        self, request: pb.PutArtifactRequest, context: Context
    ) -> pb.PutArtifactResponse:
        for_services()
        new = new_artifact(request, self._limits)
        artifact = await self._artifacts.put_artifact(new, self._limits)
        return pb.PutArtifactResponse(artifact=artifact)

    async def GetStoredArtifact(
        self, request: pb.GetStoredArtifactRequest, context: Context
    ) -> pb.GetStoredArtifactResponse:
        for_services()
        found = await self._artifacts.artifact(
            request.artifact_id, with_content=request.with_content
        )
        if found is None:
            raise ArtifactNotFound(request.artifact_id)
        return pb.GetStoredArtifactResponse(artifact=found.artifact, content=found.content)

    async def ListStoredArtifacts(
        self, request: pb.ListStoredArtifactsRequest, context: Context
    ) -> pb.ListStoredArtifactsResponse:
        for_services()
        after = place(request, request.after_artifact_id, "after_create_time")
        found = await self._artifacts.artifacts_of_session(
            request.session_id,
            after=after or START,
            limit=limited("limit", request.limit),
        )
        return pb.ListStoredArtifactsResponse(artifacts=found)
