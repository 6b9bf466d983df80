"""What the archive decides about the files that agents make, without a database."""

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence

from maieutic.archive.v1.artifact_store_service_pb2 import PutArtifactRequest
from services.persistence.artifact_ports import ArtifactLimits, NewArtifact
from services.persistence.errors import ArtifactLimitReached
from services.runtime.errors import InvalidArgument
from services.runtime.file_paths import path_collision, path_problem

FAMILY_CHARACTERS = 24
OWN_BYTES = 18
ID = re.compile(r"[A-Za-z0-9_-]{32,128}")
MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,63}/[A-Za-z0-9!#$&^_.+-]{1,63}")


def artifact_id(turn_id: str, path: str, sha256: str) -> str:
    """Return the id of these bytes at this path of the turn: 48 characters, of its family."""
    text = f"artifact\0{turn_id}\0{path}\0{sha256}"
    digest = hashlib.sha256(text.encode()).digest()
    return turn_id[:FAMILY_CHARACTERS] + urlsafe_b64encode(digest[:OWN_BYTES]).decode()


def new_artifact(request: PutArtifactRequest, limits: ArtifactLimits) -> NewArtifact:
    """Return what a request puts; raises InvalidArgument."""
    for name in ("session_id", "turn_id"):
        if ID.fullmatch(getattr(request, name)) is None:
            raise InvalidArgument(name, "must be an id as the session service gave it")
    if problem := path_problem(request.path):
        raise InvalidArgument("path", problem)
    if MEDIA_TYPE.fullmatch(request.media_type) is None:
        raise InvalidArgument("media_type", "must be a media type, such as text/x-python")
    if len(request.content) > limits.file_bytes:
        raise InvalidArgument("content", f"must have at most {limits.file_bytes} bytes")
    sha256 = hashlib.sha256(request.content).hexdigest()
    return NewArtifact(
        artifact_id=artifact_id(request.turn_id, request.path, sha256),
        tenant=request.tenant,
        user_id=request.user_id,
        session_id=request.session_id,
        turn_id=request.turn_id,
        fence=request.fence,
        path=request.path,
        media_type=request.media_type,
        sha256=sha256,
        content=request.content,
    )


def check_room(
    new: NewArtifact, attempt: Sequence[tuple[str, int]], limits: ArtifactLimits
) -> None:
    """Raise unless the file fits beside the paths and sizes that its attempt has put before."""
    if other := path_collision(new.path, (path for path, _ in attempt)):
        raise InvalidArgument("path", f"cannot stand beside {other}: choose another one")
    if len(attempt) >= limits.files:
        raise ArtifactLimitReached("files", limits.files)
    if sum(size for _, size in attempt) + len(new.content) > limits.total_bytes:
        raise ArtifactLimitReached("total_bytes", limits.total_bytes)
