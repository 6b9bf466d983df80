"""The files that agents have made: list, download, save."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from maieutic.v1 import artifact_service_pb2 as service
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from maieutic_client.connection import Connection
from maieutic_client.errors import DataLoss
from maieutic_client.safe_files import check_paths, write_under
from maieutic_client.session_ids import SessionLike, session_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedArtifact:
    """A file on this machine."""

    artifact: Artifact
    path: Path
    number: int
    """From 1."""
    total: int
    """How many files there are in all."""


class Artifacts:
    """`client.artifacts`. A session may be given in any of the shapes of `session_id_of`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = ArtifactServiceStub(connection.channel)

    async def list(
        self, session: SessionLike | None = None, *, turn_id: str = "", page_size: int = 0
    ) -> AsyncIterator[Artifact]:
        """Iterate over the files of a session or of one turn; pages are fetched as needed."""
        request = service.ListArtifactsRequest(
            session_id="" if session is None else session_id_of(session),
            turn_id=turn_id,
            page_size=page_size,
        )
        async for page in self._connection.pages(self._stub.ListArtifacts, request):
            for artifact in page.artifacts:
                yield artifact

    async def get(self, artifact_id: str) -> Artifact:
        """Return what is known of a file; raises NotFound."""
        request = service.GetArtifactRequest(artifact_id=artifact_id)
        return (await self._connection.call(self._stub.GetArtifact, request)).artifact

    async def stream(self, artifact_id: str) -> AsyncIterator[bytes]:
        """Iterate over a file's bytes, and go on where the connection was lost.

        Raises NotFound, and at the end DataLoss if they are not the ones that were stored.
        """
        request = service.DownloadArtifactRequest(artifact_id=artifact_id)
        received = _Received(artifact_id)
        told = self._connection.repeated(self._stub.DownloadArtifact, request)
        async with aclosing(told):
            async for response in told:
                if part := received.fresh(response):
                    yield part
        received.check()

    async def download(self, artifact_id: str) -> bytes:
        """Return a file's bytes, checked; raises NotFound and DataLoss."""
        return b"".join([part async for part in self.stream(artifact_id)])

    async def save(
        self, turn_id: str, folder: Path, *, overwrite: bool = False
    ) -> AsyncIterator[SavedArtifact]:
        """Write the files of a turn under a folder, and tell each once it is there and checked.

        Nothing is written anywhere else: before the first one all paths are checked, and no link
        under the folder is followed. Files that are there with the same content are left. Raises
        UnsafePath, NotFound, DataLoss, and OSError: FileExistsError for other content, unless
        *overwrite*. On POSIX systems only.
        """
        artifacts = [artifact async for artifact in self.list(turn_id=turn_id)]
        check_paths([artifact.path for artifact in artifacts])
        for number, artifact in enumerate(artifacts, start=1):
            content = await self.download(artifact.artifact_id)
            path = await asyncio.to_thread(
                write_under, folder, artifact.path, content, overwrite=overwrite
            )
            yield SavedArtifact(artifact=artifact, path=path, number=number, total=len(artifacts))


class _Received:
    """What has come of a file, over one connection or several."""

    def __init__(self, artifact_id: str) -> None:
        self._artifact = Artifact(artifact_id=artifact_id)
        self._digest = hashlib.sha256()
        self._size = 0
        self._passed = 0
        """Of the present download."""

    def fresh(self, response: service.DownloadArtifactResponse) -> bytes:
        """Return what has not come before: a file is the same at every download."""
        if response.HasField("artifact"):  # a download begins with it
            self._artifact, self._passed = response.artifact, 0
        part = response.chunk[max(0, self._size - self._passed) :]
        self._passed += len(response.chunk)
        self._digest.update(part)
        self._size += len(part)
        return part

    def check(self) -> None:
        """Raise DataLoss unless all has come, and as it was stored."""
        known = self._artifact
        if (self._digest.hexdigest(), self._size) != (known.sha256, known.size_bytes):
            raise DataLoss(
                f"artifact {known.artifact_id} ({known.path}) came damaged, with {self._size} of "
                f"{known.size_bytes} bytes: download it again, and if that does not help, tell "
                "whoever runs the backend",
                reason="ARTIFACT_DAMAGED",
            )
