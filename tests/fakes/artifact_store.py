"""A small store of artifacts that works, beside the small archive."""

from dataclasses import dataclass, field
from typing import Any

from maieutic.archive.v1 import artifact_store_service_pb2 as pb
from maieutic.archive.v1.artifact_store_service_pb2_grpc import ArtifactStoreServiceServicer
from maieutic.bus.v1.bus_pb2 import TurnFinished
from maieutic.v1.artifact_pb2 import Artifact
from services.persistence.artifact_ports import ArtifactLimits, NewArtifact
from services.persistence.artifacts import check_room, new_artifact
from services.persistence.model import named_artifacts
from services.runtime.errors import NotFound, Unavailable

LIMITS = ArtifactLimits(files=3)


@dataclass
class ArtifactStore(ArtifactStoreServiceServicer):
    """Files in dictionaries; what outcomes name it reads in those that were archived."""

    finished: dict[str, TurnFinished] = field(default_factory=dict)
    files: dict[str, tuple[Artifact, NewArtifact]] = field(default_factory=dict)
    away: bool = False

    async def PutArtifact(self, request: Any, context: Any) -> Any:
        self._answering()
        new = new_artifact(request, LIMITS)
        if new.artifact_id not in self.files:
            mine = [one for _, one in self.files.values() if one.fence == new.fence]
            check_room(new, [(one.path, len(one.content)) for one in mine], LIMITS)
            artifact = Artifact(
                artifact_id=new.artifact_id,
                session_id=new.session_id,
                turn_id=new.turn_id,
                path=new.path,
                media_type=new.media_type,
                size_bytes=len(new.content),
                sha256=new.sha256,
            )
            artifact.create_time.FromMilliseconds(len(self.files) // 2)
            self.files[new.artifact_id] = artifact, new
        return pb.PutArtifactResponse(artifact=self.files[new.artifact_id][0])

    async def GetStoredArtifact(self, request: Any, context: Any) -> Any:
        self._answering()
        if request.artifact_id not in self.files:
            raise NotFound("artifact", request.artifact_id)
        artifact, new = self.files[request.artifact_id]
        content = new.content if request.with_content else b""
        return pb.GetStoredArtifactResponse(artifact=artifact, content=content)

    async def ListStoredArtifacts(self, request: Any, context: Any) -> Any:
        self._answering()
        named = {id_ for row in self.finished.values() for id_, _ in named_artifacts(row)}
        after = request.after_create_time.ToMilliseconds(), request.after_artifact_id
        places = {
            (artifact.create_time.ToMilliseconds(), artifact.artifact_id): artifact
            for artifact, _ in self.files.values()
            if artifact.session_id == request.session_id and artifact.artifact_id in named
        }
        left = [places[place] for place in sorted(places) if place > after]
        return pb.ListStoredArtifactsResponse(artifacts=left[: request.limit])

    def _answering(self) -> None:
        if self.away:
            message = "the archive is away"
            raise Unavailable(message, retry_after=1.0)
