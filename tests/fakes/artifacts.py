"""An ArtifactService that gives out what a test has put into it, for clients and the gateway."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from maieutic.v1 import artifact_service_pb2 as service
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.artifact_service_pb2_grpc import (
    ArtifactServiceServicer,
    add_ArtifactServiceServicer_to_server,
)
from services.runtime.errors import NotFound, Unavailable
from services.runtime.identity import current_identity
from tests.fakes.conversations import page_of

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Register: TypeAlias = Callable[[grpc.aio.Server], Sequence[str]]

CHUNK = 1000


@dataclass
class Shelf:
    """Files of acme's ann; the last two are faults that a test can switch on."""

    files: dict[str, tuple[Artifact, bytes]] = field(default_factory=dict)
    breaks: int = 0
    """So many times a download breaks off after its next part."""
    damaged: bool = False
    """One bit of what is sent is another."""

    def put(self, path: str, content: bytes, *, turn: str = "t", session: str = "s") -> Artifact:
        artifact = Artifact(
            artifact_id=f"{path}-{turn}".encode().hex().ljust(48, "0")[:128],
            session_id=session * 48,
            turn_id=turn * 48,
            path=path,
            media_type="text/plain",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        artifact.create_time.FromSeconds(1_770_000_000 + len(self.files))
        self.files[artifact.artifact_id] = artifact, content
        return artifact


class FakeArtifacts(ArtifactServiceServicer):
    """Answers from a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def ListArtifacts(
        self, request: service.ListArtifactsRequest, context: Context
    ) -> service.ListArtifactsResponse:
        found = [
            artifact
            for artifact, _ in self._shelf.files.values()
            if request.session_id in ("", artifact.session_id)
            and request.turn_id in ("", artifact.turn_id)
        ]
        page, token = page_of(found, request.page_size, request.page_token)
        return service.ListArtifactsResponse(artifacts=page, next_page_token=token)

    async def GetArtifact(
        self, request: service.GetArtifactRequest, context: Context
    ) -> service.GetArtifactResponse:
        return service.GetArtifactResponse(artifact=self._found(request.artifact_id)[0])

    async def DownloadArtifact(
        self, request: service.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[service.DownloadArtifactResponse]:
        artifact, content = self._found(request.artifact_id)
        yield service.DownloadArtifactResponse(artifact=artifact)
        if self._shelf.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        for start in range(0, len(content), CHUNK):
            yield service.DownloadArtifactResponse(chunk=content[start : start + CHUNK])
            if self._shelf.breaks and start:
                self._shelf.breaks -= 1
                raise Unavailable("the link is lost")

    def _found(self, artifact_id: str) -> tuple[Artifact, bytes]:
        if current_identity().tenant != "acme" or artifact_id not in self._shelf.files:
            raise NotFound("artifact", artifact_id)
        return self._shelf.files[artifact_id]


def register_artifacts(shelf: Shelf) -> Register:
    """Return what adds the service to a server."""

    def register(server: grpc.aio.Server) -> Sequence[str]:
        add_ArtifactServiceServicer_to_server(FakeArtifacts(shelf), server)
        return ["maieutic.v1.ArtifactService"]

    return register
