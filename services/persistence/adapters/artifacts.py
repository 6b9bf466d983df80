"""Files of turns in the database.

The outcome of a turn is what tells which files are its artifacts; `named` says the same, for lists.
"""

from collections.abc import Sequence

from maieutic.bus.v1.bus_pb2 import TurnFinished
from maieutic.v1.artifact_pb2 import Artifact
from services.persistence.adapters.sql import Connection, Database, Row, moment
from services.persistence.artifact_ports import ArtifactLimits, NewArtifact, StoredArtifact
from services.persistence.artifacts import check_room
from services.persistence.errors import SessionNotFound, SessionNotYetArchived, TurnHasEnded
from services.persistence.model import Place, named_artifacts

# Locked until the commit: the session's deletion comes before all of this, or after it, and the
# files of an attempt are counted one after the other.
SESSION = "SELECT tenant, user_id, delete_time FROM sessions WHERE session_id = $1 FOR UPDATE"

TURN = "SELECT session_id, state FROM turns WHERE turn_id = $1"

COLUMNS = "artifact_id, session_id, turn_id, fence, path, media_type, size, sha256, create_time"
ARTIFACT = f"SELECT {COLUMNS} FROM artifacts WHERE artifact_id = $1"  # noqa: S608 - constants
WHOLE_ARTIFACT = f"SELECT {COLUMNS}, content FROM artifacts WHERE artifact_id = $1"  # noqa: S608 - constants
OF_ATTEMPT = "SELECT path, size FROM artifacts WHERE turn_id = $1 AND fence = $2"

# One that an earlier attempt has put counts as this one's from now on.
PUT = f"""
INSERT INTO artifacts
    (artifact_id, session_id, turn_id, fence, path, media_type, size, sha256, content)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (artifact_id) DO UPDATE SET fence = excluded.fence
RETURNING {COLUMNS}
"""  # noqa: S608 - constants

# Sorted as the session service sorts, which lists these and those not yet archived together.
OF_SESSION = f"""
SELECT {COLUMNS} FROM artifacts
WHERE session_id = $1 AND named AND create_time >= $2
    AND (create_time > $2 OR artifact_id COLLATE "C" > $3)
ORDER BY create_time, artifact_id COLLATE "C"
LIMIT $4
"""  # noqa: S608 - constants

NAME = "UPDATE artifacts SET named = true WHERE artifact_id = $1 AND turn_id = $2"

FORGET_ARTIFACTS = "DELETE FROM artifacts WHERE session_id = $1"

STALE = "NOT named AND artifacts.create_time <= now() - make_interval(secs => $1)"
STALE_TURNS = f"""
SELECT turn_id, finished FROM turns
WHERE finished IS NOT NULL AND turn_id IN (SELECT turn_id FROM artifacts WHERE {STALE})
LIMIT $2
"""  # noqa: S608 - constants
SWEEP = f"""
DELETE FROM artifacts
WHERE {STALE} AND (turn_id = ANY($2) OR NOT EXISTS (
    SELECT 1 FROM turns WHERE turns.turn_id = artifacts.turn_id
))
RETURNING artifact_id
"""  # noqa: S608 - constants


class ArtifactShelf:
    """The files that agents make; see `artifact_ports.Artifacts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put_artifact(self, new: NewArtifact, limits: ArtifactLimits) -> Artifact:
        """Store a file, unless it is there already."""
        async with self._database.writing() as connection:
            ended = await _turn_ended(connection, new)
            known = await connection.fetch(ARTIFACT, new.artifact_id)
            if known and (ended or known[0]["fence"] >= new.fence):
                return _artifact(known[0])
            if ended:
                raise TurnHasEnded(new.turn_id)
            attempt = await connection.fetch(OF_ATTEMPT, new.turn_id, new.fence)
            check_room(new, [(row["path"], row["size"]) for row in attempt], limits)
            (row,) = await connection.fetch(
                PUT,
                new.artifact_id,
                new.session_id,
                new.turn_id,
                new.fence,
                new.path,
                new.media_type,
                len(new.content),
                new.sha256,
                new.content,
            )
        return _artifact(row)

    async def artifact(self, artifact_id: str, *, with_content: bool) -> StoredArtifact | None:
        """Return a file."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(WHOLE_ARTIFACT if with_content else ARTIFACT, artifact_id)
        if not rows:
            return None
        content = bytes(rows[0]["content"]) if with_content else b""
        return StoredArtifact(artifact=_artifact(rows[0]), content=content)

    async def artifacts_of_session(
        self, session_id: str, *, after: Place, limit: int
    ) -> Sequence[Artifact]:
        """Return a page of what outcomes name."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(OF_SESSION, session_id, after.time, after.id, limit)
        return [_artifact(row) for row in rows]

    async def sweep_artifacts(self, *, older_than: float, turns: int) -> int:
        """Remove what no outcome names; a version before may have kept one without marking it."""
        async with self._database.writing() as connection:
            ended = await connection.fetch(STALE_TURNS, older_than, turns)
            for row in ended:
                finished = TurnFinished.FromString(row["finished"])
                await connection.write(NAME, named_artifacts(finished))
            swept = await connection.fetch(SWEEP, older_than, [row["turn_id"] for row in ended])
        return len(swept)


async def _turn_ended(connection: Connection, new: NewArtifact) -> bool:
    """Lock the session; raises unless it is the user's, and the turn is one of it."""
    sessions = await connection.fetch(SESSION, new.session_id)
    if not sessions:
        raise SessionNotYetArchived(new.session_id)
    owner = sessions[0]["tenant"], sessions[0]["user_id"]
    if sessions[0]["delete_time"] is not None or owner != (new.tenant, new.user_id):
        raise SessionNotFound(new.session_id)
    turns = await connection.fetch(TURN, new.turn_id)
    if turns and turns[0]["session_id"] != new.session_id:
        raise SessionNotFound(new.session_id)
    return bool(turns) and turns[0]["state"] != "ACCEPTED"


def _artifact(row: Row) -> Artifact:
    artifact = Artifact(
        artifact_id=row["artifact_id"],
        session_id=row["session_id"],
        turn_id=row["turn_id"],
        path=row["path"],
        media_type=row["media_type"],
        size_bytes=row["size"],
        sha256=row["sha256"],
    )
    artifact.create_time.FromDatetime(moment(row["create_time"]))
    return artifact
