"""The public ArtifactService, for the tenant and user that the gateway vouches for."""

from collections.abc import AsyncIterator

from maieutic.v1 import artifact_service_pb2 as pb
from maieutic.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from services.session.artifacts import Artifacts
from services.session.callers import Context, calling_user

CHUNK_BYTES = 64 * 1024


class ArtifactServicer(ArtifactServiceServicer):
    """Files out of the archive, each for whom it is."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        artifacts, token = await self._artifacts.page(calling_user(), request)
        return pb.ListArtifactsResponse(artifacts=artifacts, next_page_token=token)

    async def GetArtifact(
        self, request: pb.GetArtifactRequest, context: Context
    ) -> pb.GetArtifactResponse:
        found = await self._artifacts.get(calling_user(), request.artifact_id)
        return pb.GetArtifactResponse(artifact=found.artifact)

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        found = await self._artifacts.get(calling_user(), request.artifact_id, with_content=True)
        yield pb.DownloadArtifactResponse(artifact=found.artifact)
        content = found.content
        for start in range(0, len(content), CHUNK_BYTES):
            yield pb.DownloadArtifactResponse(chunk=content[start : start + CHUNK_BYTES])
