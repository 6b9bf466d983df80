"""The archive's store of artifacts, in domain errors."""

from typing import TYPE_CHECKING

import grpc

from maieutic.archive.v1 import artifact_store_service_pb2 as pb
from maieutic.archive.v1.artifact_store_service_pb2_grpc import ArtifactStoreServiceStub
from maieutic.v1.artifact_pb2 import Artifact
from services.session.archive import answered
from services.session.model import timestamp
from services.session.paging import Place

if TYPE_CHECKING:  # a typing name of the generated stubs
    from maieutic.archive.v1.artifact_store_service_pb2_grpc import ArtifactStoreServiceAsyncStub


class ArtifactArchive:
    """Puts and reads files. Every method may raise Unavailable."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: ArtifactStoreServiceAsyncStub = ArtifactStoreServiceStub(channel)

    async def put(self, request: pb.PutArtifactRequest) -> Artifact:
        """Store a file; raises the errors of PutArtifact."""
        return (await answered(self._stub.PutArtifact(request))).artifact

    async def get(
        self, artifact_id: str, *, with_content: bool = False
    ) -> pb.GetStoredArtifactResponse:
        """Return a file, whoever's it is; raises NotFound."""
        request = pb.GetStoredArtifactRequest(artifact_id=artifact_id, with_content=with_content)
        return await answered(self._stub.GetStoredArtifact(request))

    async def of_session(self, session_id: str, after: Place | None, limit: int) -> list[Artifact]:
        """Return the files that archived outcomes name, the oldest first."""
        request = pb.ListStoredArtifactsRequest(session_id=session_id, limit=limit)
        if after is not None:
            request.after_create_time.CopyFrom(timestamp(after.at))
            request.after_artifact_id = after.session_id
        return list((await answered(self._stub.ListStoredArtifacts(request))).artifacts)
