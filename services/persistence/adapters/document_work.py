"""Who brings the index to what the registry says of a document: one claim at a time."""

from collections.abc import Sequence

from maieutic.v1.document_service_pb2 import Document, IngestProgress, IngestStage
from services.persistence.adapters.document_rows import DROP_CONTENT, REMOVING, document_of
from services.persistence.adapters.sql import Connection, Database, Row
from services.persistence.document_ports import Claim, Claimed, Indexed, IndexedDocument, Work
from services.persistence.facts import enum_name, visible

CLAIMABLE = """
SELECT state, claim, attempts, failure, content_hash, lease_time > now() AS leased
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
WHERE tenant = $1 AND document_id = $2 AND claim = $3
"""

RELEASE = """
UPDATE documents SET
    claim = '', lease_time = now() + make_interval(secs => $4), sweep_time = NULL,
    attempts = attempts - $5, failure = $6
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
SELECT document_id, state, indexed_version, chunks_hash, revision FROM documents
WHERE tenant = $1 AND document_id > $2 ORDER BY document_id LIMIT $3
"""

DUE = """
UPDATE documents SET sweep_time = now()
WHERE (tenant, document_id) IN (
    SELECT tenant, document_id FROM documents
    WHERE state IN ('PENDING', 'REMOVING')
        AND (lease_time IS NULL OR lease_time <= now())
        AND (sweep_time IS NULL OR sweep_time <= now() - make_interval(secs => $1))
    ORDER BY create_time
    LIMIT $2
)
    AND (sweep_time IS NULL OR sweep_time <= now() - make_interval(secs => $1))
RETURNING tenant, document_id
"""


class WorkLedger:
    """The documents' work; see `document_ports.DocumentWork`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim_document(self, claim: Claim, *, lease: float, most_attempts: int) -> Claimed:
        """Give the work to the claim."""
        key = claim.tenant, claim.document_id
        async with self._database.writing() as connection:
            rows = await connection.fetch(CLAIMABLE, *key)
            if not rows or rows[0]["state"] in {"READY", "FAILED"}:
                return Claimed(work=Work.NONE)
            row = rows[0]
            if row["leased"] and row["claim"] != claim.id:
                return Claimed(work=Work.HELD)
            if _is_hopeless(row, claim, most_attempts):
                await connection.write(GIVE_UP, [(*key, _reason(row))])
                return Claimed(work=Work.NONE)
            (row,) = await connection.fetch(CLAIM, *key, claim.id, lease)
            if row["state"] == REMOVING:
                return Claimed(work=Work.REMOVE, document=document_of(row))
            content = await _content(connection, row)
        return Claimed(work=Work.INDEX, document=document_of(row), content=content)

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
        key = claim.tenant, claim.document_id, claim.id, indexed.version
        async with self._database.writing() as connection:
            if indexed.failure:
                rows = await connection.fetch(FAIL, *key, visible(indexed.failure))
            else:
                counts = indexed.chunk_count, indexed.chunks_embedded, indexed.chunks_hash
                rows = await connection.fetch(FINISH, *key, indexed.index_version, *counts)
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
            )
            for row in rows
        ]

    async def due_documents(self, *, lease: float, limit: int) -> Sequence[tuple[str, str]]:
        """Return documents whose work nobody does."""
        async with self._database.writing() as connection:
            rows = await connection.fetch(DUE, lease, limit)
        return [(row["tenant"], row["document_id"]) for row in rows]


def _is_hopeless(row: Row, claim: Claim, most_attempts: int) -> bool:
    repeated = row["claim"] == claim.id
    # What is to be removed is tried for as long as it takes.
    return row["state"] == "PENDING" and not repeated and row["attempts"] >= most_attempts


def _reason(row: Row) -> str:
    begun = f"indexing was begun {row['attempts']} times and never ended"
    return f"{begun}: {row['failure']}" if row["failure"] else begun


async def _content(connection: Connection, row: Row) -> bytes:
    (found,) = await connection.fetch(CONTENT, row["tenant"], row["content_hash"])
    content: bytes = found["content"]
    return content
