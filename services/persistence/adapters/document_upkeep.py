"""What is done with documents that nobody asked for: expiry and counts, of all tenants."""

from collections.abc import Sequence
from itertools import groupby

from maieutic.v1.document_admin_service_pb2 import DocumentTotals
from services.persistence.adapters.documents import REMOVE, UNREFERRED, locked
from services.persistence.adapters.sql import Connection, Database, moment
from services.persistence.document_ports import ExpiredReference, Expiry, Owner, Scope

OPERATION_SECONDS = 86_400.0
NEVER_SECONDS = 1e9
"""Longer than anything has been stored."""

TOUCH_ALL = """
UPDATE document_references SET last_used_time = now()
WHERE tenant = $1 AND scope = $2 AND owner = $3
"""
TOUCH = f"{TOUCH_ALL} AND document_id = ANY($4)"

EXPIRED = """
SELECT tenant, scope, owner, document_id, last_used_time FROM document_references
WHERE (scope = 'USER' AND last_used_time <= now() - make_interval(secs => $1))
    OR (scope = 'SET' AND last_used_time <= now() - make_interval(secs => $2))
    OR (scope = 'COLLECTION' AND last_used_time <= now() - make_interval(secs => $3))
ORDER BY last_used_time, tenant, scope, owner, document_id
LIMIT $4
"""

DROP_UNUSED = """
DELETE FROM document_references
WHERE tenant = $1 AND scope = $2 AND owner = $3 AND document_id = $4 AND last_used_time <= $5
"""

FORGET_OPERATIONS = """
DELETE FROM document_operations WHERE create_time <= now() - make_interval(secs => $1)
"""

TOTALS = """
SELECT
    count(*) AS documents,
    CAST(coalesce(sum(CASE WHEN state = 'PENDING' THEN 1 ELSE 0 END), 0) AS bigint) AS pending,
    CAST(coalesce(sum(CASE WHEN state = 'FAILED' THEN 1 ELSE 0 END), 0) AS bigint) AS failed,
    CAST(coalesce(sum(
        CASE WHEN used > now() - make_interval(secs => $1) THEN 1 ELSE 0 END
    ), 0) AS bigint) AS active,
    CAST(coalesce(sum(owners), 0) AS bigint) AS held,
    CAST(coalesce(sum(size), 0) AS bigint) AS bytes,
    CAST(coalesce(sum(chunk_count), 0) AS bigint) AS chunks,
    CAST(coalesce(sum(size * (owners - 1)), 0) AS bigint) AS bytes_saved,
    CAST(coalesce(sum(chunk_count * owners - chunks_embedded), 0) AS bigint) AS embeddings_saved
FROM documents JOIN (
    SELECT tenant, document_id, count(*) AS owners, max(last_used_time) AS used
    FROM document_references GROUP BY tenant, document_id
) AS held ON held.tenant = documents.tenant AND held.document_id = documents.document_id
"""


class UpkeepLedger:
    """The documents' upkeep; see `document_ports.DocumentUpkeep`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def touch_documents(self, tenant: str, owner: Owner, document_ids: Sequence[str]) -> None:
        """Note that the owner has used documents."""
        key = tenant, owner.scope.value, owner.name
        async with self._database.writing() as connection:
            if document_ids:
                await connection.write(TOUCH, [(*key, list(document_ids))])
            else:
                await connection.write(TOUCH_ALL, [key])

    async def expired_references(self, expiry: Expiry, limit: int) -> Sequence[ExpiredReference]:
        """Return references that were not used for so long."""
        ages = [
            NEVER_SECONDS if age is None else age
            for age in (expiry.user, expiry.document_set, expiry.collection)
        ]
        async with self._database.reading() as connection:
            rows = await connection.fetch(EXPIRED, *ages, limit)
        return [
            ExpiredReference(
                tenant=row["tenant"],
                owner=Owner(scope=Scope(row["scope"]), name=row["owner"]),
                document_id=row["document_id"],
                last_used_time=moment(row["last_used_time"]),
            )
            for row in rows
        ]

    async def drop_expired(
        self, references: Sequence[ExpiredReference]
    ) -> Sequence[tuple[str, str]]:
        """Drop those that were not used meanwhile."""
        released: list[tuple[str, str]] = []
        by_tenant = sorted(references, key=lambda one: one.tenant)
        for tenant, group in groupby(by_tenant, key=lambda one: one.tenant):
            async with self._database.writing() as connection:
                released += await _dropped(connection, tenant, list(group))
        async with self._database.writing() as connection:
            await connection.write(FORGET_OPERATIONS, [(OPERATION_SECONDS,)])
        return released

    async def document_totals(self, *, active: float) -> DocumentTotals:
        """Count the documents."""
        async with self._database.reading() as connection:
            (row,) = await connection.fetch(TOTALS, active)
        return DocumentTotals(
            documents=row["documents"],
            pending=row["pending"],
            failed=row["failed"],
            active=row["active"],
            references=row["held"],
            bytes=row["bytes"],
            chunks=row["chunks"],
            bytes_saved=row["bytes_saved"],
            embeddings_saved=row["embeddings_saved"],
        )


async def _dropped(
    connection: Connection, tenant: str, references: Sequence[ExpiredReference]
) -> list[tuple[str, str]]:
    revision = await locked(connection, tenant)
    rows = [
        (tenant, one.owner.scope.value, one.owner.name, one.document_id, one.last_used_time)
        for one in references
    ]
    await connection.write(DROP_UNUSED, rows)
    ids = sorted({one.document_id for one in references})
    released = await connection.fetch(UNREFERRED, tenant, ids)
    keys = [(tenant, row["document_id"]) for row in released]
    await connection.write(REMOVE, [(*key, revision) for key in keys])
    return keys
