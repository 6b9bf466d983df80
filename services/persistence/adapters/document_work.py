"""Who brings the index to what the registry says of a document: one claim at a time."""

from collections.abc import Sequence

from maieutic.v1.document_service_pb2 import Document, IngestProgress, IngestStage
from services.persistence.adapters.document_rows import DROP_CONTENT, REMOVING, document_of
from services.persistence.adapters.index_versions import BUILT, HELD, LACKING, POINTER
from services.persistence.adapters.sql import Connection, Database, Row
from services.persistence.document_ports import (
    Claim,
    Claimed,
    Indexed,
    IndexedDocument,
    IndexedUnder,
    Work,
)
from services.persistence.facts import enum_name, visible

CLAIMABLE = """
SELECT state, claim, attempts, failure, content_hash, indexed_version,
    lease_time > now() AS leased
FROM documents WHERE tenant = $1 AND document_id = $2 FOR UPDATE
"""

# An index from which a document is being removed holds none of its versions for certain.
CLAIM = """
UPDATE documents SET
    claim = $3, lease_time = now() + make_interval(secs => $4),
    attempts = attempts + CASE WHEN claim = $3 THEN 0 ELSE 1 END,
    indexed_version = CASE WHEN state = 'REMOVING' THEN 0 ELSE indexed_version END
WHERE tenant = $1 AND document_id = $2
RETURNING *
"""

GIVE_UP = """
UPDATE documents SET state = 'FAILED', failure = $3, claim = '', lease_time = NULL
WHERE tenant = $1 AND document_id = $2
"""

CONTENT = "SELECT content FROM document_contents WHERE tenant = $1 AND content_hash = $2"

RENEW = """
UPDATE documents SET lease_time = now() + make_interval(secs => $4)
WHERE tenant = $1 AND document_id = $2 AND claim = $3
RETURNING document_id
"""

NOTE_PROGRESS = """
UPDATE documents SET stage = $4, chunks_done = $5, chunks_total = $6
WHERE tenant = $1 AND document_id = $2 AND claim = $3 AND state = 'PENDING'
"""

RELEASE = """
UPDATE documents SET
    claim = '', lease_time = now() + make_interval(secs => $4), sweep_time = NULL,
    attempts = attempts - $5, failure = CASE WHEN state = 'READY' THEN failure ELSE $6 END
WHERE tenant = $1 AND document_id = $2 AND claim = $3
"""

# A version that is not the current one any more is in the index all the same, until the next is.
FINISH = """
UPDATE documents SET
    state = CASE WHEN state = 'PENDING' AND version = $4 THEN 'READY' ELSE state END,
    stage = CASE WHEN state = 'PENDING' AND version = $4 THEN 'STORED' ELSE stage END,
    failure = '', attempts = 0, indexed_version = $4, index_version = $5, chunk_count = $6,
    chunks_embedded = $7, chunks_hash = $8, claim = '', lease_time = NULL, sweep_time = NULL
WHERE tenant = $1 AND document_id = $2 AND claim = $3
RETURNING *
"""

# The work was for other indexes than the one that is searched.
FINISH_BESIDE = """
UPDATE documents SET attempts = 0, claim = '', lease_time = NULL, sweep_time = NULL
WHERE tenant = $1 AND document_id = $2 AND claim = $3
RETURNING *
"""

KEEP_INDEXED = """
INSERT INTO document_indexes (tenant, document_id, version_id, version, chunks_hash, failure)
SELECT $1, $2, version_id, $3, $5, $6 FROM index_versions WHERE version_id = $4
ON CONFLICT (tenant, document_id, version_id) DO UPDATE SET
    version = excluded.version, chunks_hash = excluded.chunks_hash, failure = excluded.failure
"""

SEARCHED = """
SELECT current, label FROM index_pointer
JOIN index_versions ON index_versions.version_id = index_pointer.current FOR SHARE
"""

WANTED = """
SELECT version_id FROM index_versions WHERE NOT dropping
ORDER BY version_id <> COALESCE((SELECT current FROM index_pointer), ''), version_id
"""

LACKED = f"""
SELECT version_id FROM index_versions, documents
WHERE tenant = $1 AND document_id = $2 AND building AND NOT dropping
    AND NOT EXISTS ({HELD} = index_versions.version_id)
ORDER BY version_id <> COALESCE((SELECT current FROM index_pointer), ''), version_id
"""  # noqa: S608 - made of constants

# A version without the document is being built, from now on if it was not.
BUILDING = """
UPDATE index_versions SET building = true WHERE NOT building AND NOT EXISTS (
    SELECT 1 FROM document_indexes AS held
    WHERE held.tenant = $1 AND held.document_id = $2 AND held.version = $3
        AND held.version_id = index_versions.version_id
)
"""

FORGIVE = """
UPDATE documents SET attempts = 0, claim = '', lease_time = NULL
WHERE tenant = $1 AND document_id = $2
"""

FAIL = """
UPDATE documents SET
    state = CASE WHEN state = 'PENDING' AND version = $4 THEN 'FAILED' ELSE state END,
    failure = CASE WHEN state = 'PENDING' AND version = $4 THEN $5 ELSE failure END,
    attempts = 0, claim = '', lease_time = NULL, sweep_time = NULL
WHERE tenant = $1 AND document_id = $2 AND claim = $3
RETURNING *
"""

LOCK_TENANT = "UPDATE document_tenants SET revision = revision WHERE tenant = $1"

DROP = """
DELETE FROM documents
WHERE tenant = $1 AND document_id = $2 AND claim = $3 AND state = 'REMOVING'
RETURNING content_hash
"""

LEAVE = """
UPDATE documents SET claim = '', lease_time = NULL, sweep_time = NULL
WHERE tenant = $1 AND document_id = $2 AND claim = $3
"""

REINDEX = """
UPDATE documents SET
    state = 'PENDING', failure = '', attempts = 0, sweep_time = NULL,
    lease_time = CASE WHEN claim = '' THEN NULL ELSE lease_time END
WHERE tenant = $1 AND document_id = $2 AND state <> 'REMOVING'
"""

TENANTS = "SELECT tenant FROM document_tenants WHERE tenant > $1 ORDER BY tenant LIMIT $2"

INDEXED = """
SELECT documents.document_id, state, indexed_version, revision, content_hash,
    COALESCE(held.chunks_hash, documents.chunks_hash) AS chunks_hash
FROM documents LEFT JOIN document_indexes AS held ON held.tenant = documents.tenant
    AND held.document_id = documents.document_id AND held.version = documents.indexed_version
    AND held.version_id = (SELECT current FROM index_pointer)
WHERE documents.tenant = $1 AND documents.document_id > $2
ORDER BY documents.document_id LIMIT $3
"""

DUE = """
UPDATE documents SET sweep_time = now()
WHERE (tenant, document_id) IN (
    SELECT tenant, document_id FROM documents
    WHERE {due}
        AND (lease_time IS NULL OR lease_time <= now())
        AND (sweep_time IS NULL OR sweep_time <= now() - make_interval(secs => $1))
    ORDER BY create_time
    LIMIT $2
)
    AND (sweep_time IS NULL OR sweep_time <= now() - make_interval(secs => $1))
RETURNING tenant, document_id
"""
UNFINISHED = DUE.format(due="state IN ('PENDING', 'REMOVING')")
BESIDE = DUE.format(due=LACKING)

IS_BUILDING = "SELECT 1 AS one FROM index_versions WHERE building AND NOT dropping LIMIT 1"


class WorkLedger:
    """The documents' work; see `document_ports.DocumentWork`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim_document(self, claim: Claim, *, lease: float, most_attempts: int) -> Claimed:
        """Give the work to the claim."""
        key = claim.tenant, claim.document_id
        async with self._database.writing() as connection:
            rows = await connection.fetch(CLAIMABLE, *key)
            if not rows or not (versions := await _versions(connection, key, rows[0])):
                return Claimed(work=Work.NONE)
            row = rows[0]
            if row["leased"] and row["claim"] != claim.id:
                return Claimed(work=Work.HELD)
            if _is_hopeless(row, claim, most_attempts):
                await _give_up(connection, key, row, versions)
                return Claimed(work=Work.NONE)
            (row,) = await connection.fetch(CLAIM, *key, claim.id, lease)
            content = b"" if row["state"] == REMOVING else await _content(connection, row)
        return Claimed(
            work=Work.REMOVE if row["state"] == REMOVING else Work.INDEX,
            document=document_of(row),
            content=content,
            index_versions=[one for one in versions if one],
        )

    async def renew_claim(
        self, claim: Claim, *, lease: float, progress: IngestProgress | None
    ) -> bool:
        """Extend a claim and note the progress."""
        key = claim.tenant, claim.document_id, claim.id
        async with self._database.writing() as connection:
            held = await connection.fetch(RENEW, *key, lease)
            if progress is not None:
                stage = enum_name(IngestStage.DESCRIPTOR, progress.stage)
                done = progress.chunks_done, progress.chunks_total
                await connection.write(NOTE_PROGRESS, [(*key, stage, *done)])
        return bool(held)

    async def release_claim(
        self, claim: Claim, *, pause: float, uncounted: bool, problem: str
    ) -> None:
        """Leave the work to anybody, later."""
        key = claim.tenant, claim.document_id, claim.id
        async with self._database.writing() as connection:
            await connection.write(RELEASE, [(*key, pause, int(uncounted), visible(problem))])

    async def finish_document(self, claim: Claim, indexed: Indexed) -> Document | None:
        """End a claim: the version is in the index, or cannot be."""
        async with self._database.writing() as connection:
            if indexed.failure:
                rows = await _failed(connection, claim, indexed)
            else:
                rows = await _finished(connection, claim, indexed)
        return document_of(rows[0]) if rows else None

    async def drop_document(self, claim: Claim) -> bool:
        """End a claim to remove."""
        key = claim.tenant, claim.document_id, claim.id
        async with self._database.writing() as connection:
            # Nobody may refer to the document, or to its content, between these statements.
            await connection.write(LOCK_TENANT, [(claim.tenant,)])
            dropped = await connection.fetch(DROP, *key)
            for row in dropped:
                await connection.write(DROP_CONTENT, [(claim.tenant, row["content_hash"])])
            await connection.write(LEAVE, [key])
        return bool(dropped)

    async def reindex_document(self, tenant: str, document_id: str) -> None:
        """Have a document indexed again."""
        async with self._database.writing() as connection:
            await connection.write(REINDEX, [(tenant, document_id)])

    async def document_tenants(self, *, after: str, limit: int) -> Sequence[str]:
        """Return the tenants that ever had documents."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(TENANTS, after, limit)
        return [row["tenant"] for row in rows]

    async def indexed_documents(
        self, tenant: str, *, after: str, limit: int
    ) -> Sequence[IndexedDocument]:
        """Return the tenant's documents, with what the index must hold of them."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(INDEXED, tenant, after, limit)
        return [
            IndexedDocument(
                document_id=row["document_id"],
                changing=row["state"] in {"PENDING", REMOVING},
                indexed_version=row["indexed_version"],
                chunks_hash=row["chunks_hash"],
                revision=row["revision"],
                content_hash=row["content_hash"],
            )
            for row in rows
        ]

    async def due_documents(self, *, lease: float, limit: int) -> Sequence[tuple[str, str]]:
        """Return documents whose work nobody does."""
        async with self._database.writing() as connection:
            rows = list(await connection.fetch(UNFINISHED, lease, limit))
            if len(rows) < limit and await connection.fetch(IS_BUILDING):
                await connection.fetch(POINTER + " FOR UPDATE")
                await connection.write(BUILT, [()])
                rows += await connection.fetch(BESIDE, lease, limit - len(rows))
        return [(row["tenant"], row["document_id"]) for row in rows]


async def _versions(connection: Connection, key: tuple[str, str], row: Row) -> list[str]:
    """Return the index versions under which there is work; an empty id before there are any."""
    if row["state"] == "FAILED":
        return []
    if row["state"] == "READY":
        rows = await connection.fetch(LACKED, *key)
        return [one["version_id"] for one in rows]
    return [one["version_id"] for one in await connection.fetch(WANTED)] or [""]


async def _give_up(
    connection: Connection, key: tuple[str, str], row: Row, versions: Sequence[str]
) -> None:
    if row["state"] == "READY":
        lost = [(*key, row["indexed_version"], one, "", _reason(row)) for one in versions]
        await connection.write(KEEP_INDEXED, lost)
        await connection.write(FORGIVE, [key])
    else:
        await connection.write(GIVE_UP, [(*key, _reason(row))])


async def _finished(connection: Connection, claim: Claim, indexed: Indexed) -> Sequence[Row]:
    """End the claim under the index versions that have the document now."""
    key = claim.tenant, claim.document_id
    searched = await connection.fetch(SEARCHED)
    under = {one.index_version: one for one in indexed.indexes}
    own = IndexedUnder(
        index_version=indexed.index_version,
        chunk_count=indexed.chunk_count,
        chunks_embedded=indexed.chunks_embedded,
        chunks_hash=indexed.chunks_hash,
    )
    if searched and not under:
        # A service that knows of no versions names its splitter.
        known = own.index_version in {searched[0]["current"], searched[0]["label"]}
        under = {searched[0]["current"]: own} if known else {}
    main = under.get(searched[0]["current"]) if searched else own
    if main is None:
        rows = await connection.fetch(FINISH_BESIDE, *key, claim.id)
    else:
        counts = main.index_version, main.chunk_count, main.chunks_embedded, main.chunks_hash
        rows = await connection.fetch(FINISH, *key, claim.id, indexed.version, *counts)
    if rows:
        held = [(*key, indexed.version, id_, one.chunks_hash, "") for id_, one in under.items()]
        await connection.write(KEEP_INDEXED, held)
        await connection.write(BUILDING, [(*key, indexed.version)])
    return rows


async def _failed(connection: Connection, claim: Claim, indexed: Indexed) -> Sequence[Row]:
    key = claim.tenant, claim.document_id
    failure = visible(indexed.failure)
    rows = await connection.fetch(FAIL, *key, claim.id, indexed.version, failure)
    if rows and rows[0]["state"] == "READY":
        lacked = await connection.fetch(LACKED, *key)
        lost = [(*key, indexed.version, one["version_id"], "", failure) for one in lacked]
        await connection.write(KEEP_INDEXED, lost)
    return rows


def _is_hopeless(row: Row, claim: Claim, most_attempts: int) -> bool:
    repeated = row["claim"] == claim.id
    # What is to be removed is tried for as long as it takes.
    return row["state"] != REMOVING and not repeated and row["attempts"] >= most_attempts


def _reason(row: Row) -> str:
    begun = f"indexing was begun {row['attempts']} times and never ended"
    return f"{begun}: {row['failure']}" if row["failure"] else begun


async def _content(connection: Connection, row: Row) -> bytes:
    (found,) = await connection.fetch(CONTENT, row["tenant"], row["content_hash"])
    content: bytes = found["content"]
    return content
