"""Index versions side by side, and the pointer to the one that is searched.

Who ends the indexing of a document shares the pointer's row until the commit, and who moves the
pointer has it alone: a document is never called ready for a version that is searched no more.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields

from services.persistence.adapters.sql import Connection, Database, Row
from services.persistence.errors import VersionBusy, VersionIncomplete, VersionNotFound
from services.persistence.index_ports import IndexStanding, IndexVersion

HELD = """
SELECT 1 FROM document_indexes AS held WHERE held.tenant = documents.tenant
    AND held.document_id = documents.document_id
    AND held.version = documents.indexed_version AND held.version_id
"""
# A version that cannot have a document does not wait for it.
LACKING = f"""
documents.state = 'READY' AND EXISTS (
    SELECT 1 FROM index_versions AS live
    WHERE live.building AND NOT live.dropping AND NOT EXISTS ({HELD} = live.version_id)
)
"""  # noqa: S608 - made of constants

KEEP = """
INSERT INTO index_versions (
    version_id, label, embedder_url, embedder, dimension, chunk_characters, chunk_overlap, space,
    building
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, true)
ON CONFLICT (version_id) DO UPDATE SET building = true
RETURNING *
"""

POINT_FIRST = """
INSERT INTO index_pointer (only_row, current) VALUES (1, $1)
ON CONFLICT (only_row) DO NOTHING RETURNING current
"""

# What was indexed before there were versions.
ADOPT = """
INSERT INTO document_indexes (tenant, document_id, version_id, version, chunks_hash)
SELECT tenant, document_id, $1, indexed_version, chunks_hash FROM documents
WHERE index_version = $2 AND indexed_version > 0
"""

TRY_AGAIN = "DELETE FROM document_indexes WHERE version_id = $1 AND failure <> ''"

POINTER = "SELECT current, previous FROM index_pointer"

VERSIONS = "SELECT * FROM index_versions ORDER BY create_time, version_id"

VERSION = "SELECT * FROM index_versions WHERE version_id = $1"

BUILT = f"""
UPDATE index_versions SET building = false
WHERE building AND NOT EXISTS (
    SELECT 1 FROM documents WHERE documents.state IN ('READY', 'PENDING')
        AND documents.indexed_version > 0 AND NOT EXISTS ({HELD} = index_versions.version_id)
)
"""  # noqa: S608 - made of constants

COUNTS = """
SELECT held.version_id, held.failure <> '' AS failed, count(*) AS documents
FROM document_indexes AS held
JOIN documents ON documents.tenant = held.tenant AND documents.document_id = held.document_id
    AND documents.indexed_version = held.version AND documents.state IN ('READY', 'PENDING')
GROUP BY 1, 2
"""

TOTAL = """
SELECT count(*) AS documents FROM documents
WHERE state IN ('READY', 'PENDING') AND indexed_version > 0
"""

FAILED = """
SELECT 1 AS one FROM document_indexes AS held
JOIN documents ON documents.tenant = held.tenant AND documents.document_id = held.document_id
    AND documents.indexed_version = held.version AND documents.state IN ('READY', 'PENDING')
WHERE held.version_id = $1 AND held.failure <> '' LIMIT 1
"""

POINT = "UPDATE index_pointer SET previous = current, current = $1 WHERE current <> $1"

SEARCHED = """
COALESCE((
    SELECT held.version FROM document_indexes AS held WHERE held.tenant = documents.tenant
        AND held.document_id = documents.document_id AND held.version_id = $1
        AND held.failure = ''
), 0)
"""
# What the version has is what is searched from now on.
FOLLOW = f"""
UPDATE documents SET
    state = CASE WHEN state = 'READY' THEN 'PENDING' ELSE state END,
    sweep_time = NULL, attempts = 0, indexed_version = {SEARCHED}
WHERE state <> 'REMOVING' AND indexed_version <> {SEARCHED}
"""  # noqa: S608 - made of constants

DROPPING = "UPDATE index_versions SET dropping = true WHERE version_id = $1"
FORGET_PREVIOUS = "UPDATE index_pointer SET previous = '' WHERE previous = $1"
GONE = "DELETE FROM index_versions WHERE version_id = $1 AND dropping"


class IndexLedger:
    """The registry of index versions; see `index_ports.IndexRegistry`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register_index(self, version: IndexVersion, *, first_only: bool) -> None:
        """Have every document indexed under the version, too."""
        async with self._database.writing() as connection:
            first = await connection.fetch(POINT_FIRST, version.version_id)
            if first_only and not first:
                return
            await connection.fetch(POINTER + " FOR UPDATE")
            values = asdict(version) | ({"space": version.embedder} if first else {})
            (row,) = await connection.fetch(KEEP, *values.values())
            if row["dropping"]:
                raise VersionBusy(f"index version {version.version_id} is being dropped")
            if first:
                await connection.write(ADOPT, [(version.version_id, version.label)])
            else:
                await connection.write(TRY_AGAIN, [(version.version_id,)])
            await connection.write(BUILT, [()])

    async def index_versions(self, *, counted: bool) -> Sequence[IndexStanding]:
        """Return all versions, the oldest first."""
        async with self._database.reading() as connection:
            pointer = await connection.fetch(POINTER)
            rows = await connection.fetch(VERSIONS)
            counts = await connection.fetch(COUNTS) if counted else []
            (total,) = await connection.fetch(TOTAL) if counted else [{"documents": 0}]
        by_version = {(row["version_id"], bool(row["failed"])): row["documents"] for row in counts}
        return [
            IndexStanding(
                version=_version(row),
                current=pointer[0]["current"] == row["version_id"],
                previous=pointer[0]["previous"] == row["version_id"],
                building=bool(row["building"]),
                dropping=bool(row["dropping"]),
                documents=by_version.get((row["version_id"], False), 0),
                failed=by_version.get((row["version_id"], True), 0),
                total=total["documents"],
            )
            for row in rows
        ]

    async def switch_index(self, version_id: str, *, force: bool) -> str:
        """Have searches use the version."""
        async with self._database.writing() as connection:
            pointer = await connection.fetch(POINTER + " FOR UPDATE")
            wanted = version_id or (pointer[0]["previous"] if pointer else "")
            await connection.write(BUILT, [()])
            rows = await connection.fetch(VERSION, wanted)
            if not rows:
                raise VersionNotFound(wanted)
            if rows[0]["dropping"]:
                raise VersionBusy(f"index version {wanted} is being dropped")
            if not force:
                await _require_complete(connection, rows[0])
            await connection.write(POINT, [(wanted,)])
            await connection.write(FOLLOW, [(wanted,)])
        return wanted

    async def drop_index(self, version_id: str, *, gone: bool) -> None:
        """Have nothing indexed under the version any more."""
        async with self._database.writing() as connection:
            (pointer,) = await connection.fetch(POINTER + " FOR UPDATE") or [{"current": ""}]
            if pointer["current"] == version_id:
                raise VersionBusy(f"index version {version_id} is searched: switch first")
            await connection.write(DROPPING, [(version_id,)])
            await connection.write(FORGET_PREVIOUS, [(version_id,)])
            if gone:
                await connection.write(GONE, [(version_id,)])


async def _require_complete(connection: Connection, row: Row) -> None:
    version_id = row["version_id"]
    if row["building"]:
        raise VersionIncomplete(f"index version {version_id} is still being built")
    if await connection.fetch(FAILED, version_id):
        raise VersionIncomplete(f"index version {version_id} could not take some documents")


def _version(row: Row) -> IndexVersion:
    return IndexVersion(**{one.name: row[one.name] for one in fields(IndexVersion)})
