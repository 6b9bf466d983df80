"""The files of a code turn, as its watchers are told of them. Pure."""

from collections.abc import Iterable

from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.turn_service_pb2 import CodeManifest, TurnFile


def finished_files(manifest: CodeManifest, artifacts: Iterable[Artifact]) -> list[TurnFile]:
    """Return the files that are stored, each under its place in the manifest."""
    places = {file.path: place for place, file in enumerate(manifest.files, start=1)}
    return [
        TurnFile(
            path=artifact.path,
            index=places[artifact.path],
            total=len(manifest.files),
            artifact=artifact,
        )
        for artifact in artifacts
        if artifact.path in places
    ]
