"""The registry of documents, and of who refers to them.

Changes of a tenant's references run one after the other: each locks the tenant's row first.
"""

from collections.abc import Sequence

from maieutic.v1.document_service_pb2 import Document, DocumentFormat, DocumentUsage
from services.persistence.adapters.document_rows import DROP_CONTENT, document_of, usage_of
from services.persistence.adapters.sql import Connection, Database, Row
from services.persistence.document_ports import (
    Operation,
    Owner,
    Registered,
    Registration,
    Released,
)
from services.persistence.errors import (
    DocumentIdTaken,
    DocumentLimitReached,
    DocumentNotFound,
    RequestIdTaken,
)
from services.persistence.facts import enum_name, visible
from services.persistence.model import Place

LOCK_TENANT = """
INSERT INTO document_tenants (tenant, revision) VALUES ($1, 1)
ON CONFLICT (tenant) DO UPDATE SET revision = document_tenants.revision + 1
RETURNING revision
"""

KEEP_DOCUMENT = """
INSERT INTO documents (
    tenant, document_id, name, format, state, size, content_hash, chunk_count, create_time,
    revision, update_time, sweep_time
) VALUES ($1, $2, $3, $4, 'PENDING', $5, $6, 0, now(), $7, now(), now())
ON CONFLICT DO NOTHING
RETURNING *
"""

# The oldest, unless it is on its way out.
DOCUMENT_OF_CONTENT = """
SELECT * FROM documents WHERE tenant = $1 AND content_hash = $2
ORDER BY state = 'REMOVING', create_time, document_id LIMIT 1 FOR UPDATE
"""

# Whoever holds its claim finds out at the end that there is more to do.
REVIVE = """
UPDATE documents SET
    state = 'PENDING', format = $3, failure = '', stage = 'ACCEPTED',
    chunks_done = 0, chunks_total = 0, attempts = 0, sweep_time = now(),
    revision = CASE WHEN state = 'PENDING' THEN revision ELSE $4 END,
    lease_time = CASE WHEN claim = '' THEN NULL ELSE lease_time END
WHERE tenant = $1 AND document_id = $2
RETURNING *
"""

RESTORE = """
UPDATE documents SET state = 'READY' WHERE tenant = $1 AND document_id = $2 RETURNING *
"""

REPLACE = """
UPDATE documents SET
    content_hash = $3, size = $4, format = $5, version = version + 1,
    revision = CASE WHEN state = 'PENDING' THEN revision ELSE $6 END,
    state = 'PENDING', failure = '', stage = 'ACCEPTED', chunks_done = 0, chunks_total = 0,
    attempts = 0, update_time = now(), sweep_time = now(),
    lease_time = CASE WHEN claim = '' THEN NULL ELSE lease_time END
WHERE tenant = $1 AND document_id = $2
RETURNING *
"""

REMOVE = """
UPDATE documents SET
    state = 'REMOVING', revision = $3, attempts = 0, sweep_time = now(),
    lease_time = CASE WHEN claim = '' THEN NULL ELSE lease_time END
WHERE tenant = $1 AND document_id = $2 AND state <> 'REMOVING'
"""

TENANTS_SHARE = """
SELECT count(*) AS documents, CAST(coalesce(sum(size), 0) AS bigint) AS bytes
FROM documents WHERE tenant = $1 AND state <> 'REMOVING'
"""

KEEP_CONTENT = """
INSERT INTO document_contents (tenant, content_hash, content) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
"""

KEEP_REFERENCE = """
INSERT INTO document_references (tenant, scope, owner, document_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant, scope, owner, document_id) DO UPDATE SET last_used_time = now()
"""

DROP_REFERENCE = """
DELETE FROM document_references
WHERE tenant = $1 AND scope = $2 AND owner = $3 AND document_id = $4
"""

REFERENCES_OF = """
SELECT document_id FROM document_references WHERE tenant = $1 AND scope = $2 AND owner = $3
"""

UNREFERRED = """
SELECT document_id FROM documents WHERE tenant = $1 AND document_id = ANY($2) AND NOT EXISTS (
    SELECT 1 FROM document_references AS held
    WHERE held.tenant = $1 AND held.document_id = documents.document_id
)
"""

KEEP_OPERATION = """
INSERT INTO document_operations (tenant, user_id, request_id, request_hash, document_id, indexes)
VALUES ($1, $2, $3, $4, $5, $6)
"""

OPERATION = """
SELECT request_hash, document_id, indexes FROM document_operations
WHERE tenant = $1 AND user_id = $2 AND request_id = $3
"""

OWNED = """
SELECT documents.* FROM documents
JOIN document_references AS held
    ON held.tenant = documents.tenant AND held.document_id = documents.document_id
WHERE held.tenant = $1 AND held.scope = $2 AND held.owner = $3
"""
NEWEST_FIRST = """
ORDER BY documents.create_time DESC, documents.document_id DESC
LIMIT $4
"""
FIRST_PAGE = OWNED + NEWEST_FIRST
NEXT_PAGE = f"{OWNED} AND (documents.create_time, documents.document_id) < ($5, $6) {NEWEST_FIRST}"

USAGE = """
SELECT
    COALESCE((
        SELECT label FROM index_versions JOIN index_pointer ON version_id = current
    ), index_version) AS index_version,
    (SELECT count(*) FROM document_references AS held
        WHERE held.tenant = $1 AND held.document_id = $2) AS owner_count,
    (SELECT max(last_used_time) FROM document_references AS held
        WHERE held.tenant = $1 AND held.document_id = $2) AS last_used_time,
    (SELECT count(*) FROM session_documents JOIN sessions
        ON sessions.session_id = session_documents.session_id
        WHERE session_documents.document_id = $2 AND sessions.tenant = $1) AS session_count
FROM documents WHERE tenant = $1 AND document_id = $2
"""

INDEXED = """
SELECT 1 AS one FROM document_indexes
WHERE tenant = $1 AND document_id = $2 AND version = $3 AND version_id = $4 AND failure = ''
"""

ACCESSIBLE = """
SELECT documents.* FROM documents
WHERE documents.tenant = $1 AND documents.document_id = $3 AND EXISTS (
    SELECT 1 FROM document_references AS held
    WHERE held.tenant = $1 AND held.document_id = $3
        AND (held.scope = 'COLLECTION' OR (held.scope = 'USER' AND held.owner = $2))
)
"""


class Registry:
    """The document registry; see `document_ports.DocumentRegistry`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register_document(self, registration: Registration) -> Registered:
        """Refer the user to the document, and store what is new."""
        operation = registration.operation
        async with self._database.writing() as connection:
            revision = await locked(connection, operation.tenant)
            if (done := await _done(connection, operation)) is not None:
                row = await _accessible(connection, operation, done["document_id"])
                return _registered(row, indexes=bool(done["indexes"]), revision=revision)
            row, indexes = await _kept(connection, registration, revision)
            reference = (operation.tenant, "USER", operation.user_id, row["document_id"])
            await connection.write(KEEP_REFERENCE, [reference])
            await _note(connection, operation, row["document_id"], indexes=indexes)
        return _registered(row, indexes=indexes, revision=revision)

    async def replace_document(self, registration: Registration) -> Registered:
        """Give the user's document other content."""
        operation, document = registration.operation, registration.document
        async with self._database.writing() as connection:
            revision = await locked(connection, operation.tenant)
            done = await _done(connection, operation)
            row = await _accessible(connection, operation, document.document_id)
            if done is not None:
                return _registered(row, indexes=bool(done["indexes"]), revision=revision)
            if row["content_hash"] == document.content_hash:
                row, indexes = await _revived(connection, registration, row, revision)
            else:
                row, indexes = await _replaced(connection, registration, row, revision), True
            await _note(connection, operation, document.document_id, indexes=indexes)
        return _registered(row, indexes=indexes, revision=revision)

    async def get_document(self, tenant: str, user_id: str, document_id: str) -> Document:
        """Return a document of the user or of a collection."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(ACCESSIBLE, tenant, user_id, document_id)
        return document_of(_found(rows, document_id))

    async def document_usage(self, tenant: str, document_id: str) -> DocumentUsage:
        """Return who has a document, and how it was indexed."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(USAGE, tenant, document_id)
        return usage_of(rows[0]) if rows else DocumentUsage()

    async def list_documents(
        self, tenant: str, owner: Owner, *, before: Place | None, limit: int
    ) -> Sequence[Document]:
        """Return the owner's documents, newest first."""
        held = tenant, owner.scope.value, owner.name
        async with self._database.reading() as connection:
            if before is None:
                rows = await connection.fetch(FIRST_PAGE, *held, limit)
            else:
                place = before.time, before.id
                rows = await connection.fetch(NEXT_PAGE, *held, limit, *place)
        return [document_of(row) for row in rows]

    async def attach_documents(
        self, operation: Operation, owner: Owner, document_ids: Sequence[str]
    ) -> int:
        """Have the owner refer to documents."""
        tenant, held = operation.tenant, (operation.tenant, owner.scope.value, owner.name)
        async with self._database.writing() as connection:
            revision = await locked(connection, tenant)
            if await _done(connection, operation) is None:
                for document_id in document_ids:
                    await _accessible(connection, operation, document_id)
                references = [(*held, document_id) for document_id in document_ids]
                await connection.write(KEEP_REFERENCE, references)
                await _note(connection, operation, "", indexes=False)
        return revision

    async def detach_documents(
        self, operation: Operation, owner: Owner, document_ids: Sequence[str]
    ) -> Released:
        """Drop the owner's references; what nobody refers to any more is to be removed."""
        tenant, held = operation.tenant, (operation.tenant, owner.scope.value, owner.name)
        async with self._database.writing() as connection:
            revision = await locked(connection, tenant)
            if not document_ids:
                rows = await connection.fetch(REFERENCES_OF, *held)
                document_ids = [row["document_id"] for row in rows]
            if await _done(connection, operation) is None:
                references = [(*held, document_id) for document_id in document_ids]
                await connection.write(DROP_REFERENCE, references)
                await _note(connection, operation, "", indexes=False)
            rows = await connection.fetch(UNREFERRED, tenant, list(document_ids))
            released = [row["document_id"] for row in rows]
            await connection.write(REMOVE, [(tenant, one, revision) for one in released])
        return Released(document_ids=released, revision=revision)


async def locked(connection: Connection, tenant: str) -> int:
    """Let no other change of the tenant's references run until the commit; returns its number."""
    (row,) = await connection.fetch(LOCK_TENANT, tenant)
    return int(row["revision"])


async def _done(connection: Connection, operation: Operation) -> Row | None:
    """Return what the request did before, None if it is new; raises RequestIdTaken."""
    if not operation.request_id:
        return None
    key = operation.tenant, operation.user_id, operation.request_id
    rows = await connection.fetch(OPERATION, *key)
    if rows and rows[0]["request_hash"] != operation.request_hash:
        raise RequestIdTaken(operation.request_id)
    return rows[0] if rows else None


async def _note(
    connection: Connection, operation: Operation, document_id: str, *, indexes: bool
) -> None:
    if operation.request_id:
        key = operation.tenant, operation.user_id, operation.request_id
        await connection.write(
            KEEP_OPERATION, [(*key, operation.request_hash, document_id, indexes)]
        )


async def _kept(
    connection: Connection, registration: Registration, revision: int
) -> tuple[Row, bool]:
    """Return the tenant's document with this content, and whether it is to be indexed."""
    tenant, document = registration.operation.tenant, registration.document
    found = await connection.fetch(DOCUMENT_OF_CONTENT, tenant, document.content_hash)
    if found:
        return await _revived(connection, registration, found[0], revision)
    await _require_room(connection, registration, documents=1, size=document.size)
    made = await connection.fetch(
        KEEP_DOCUMENT,
        tenant,
        document.document_id,
        visible(document.name),
        enum_name(DocumentFormat.DESCRIPTOR, document.format),
        document.size,
        document.content_hash,
        revision,
    )
    if not made:
        raise DocumentIdTaken(document.document_id)
    content = (tenant, document.content_hash, registration.content)
    await connection.write(KEEP_CONTENT, [content])
    return made[0], True


async def _require_room(
    connection: Connection, registration: Registration, *, documents: int, size: int
) -> None:
    """Raise DocumentLimitReached if the tenant may not have so much more."""
    (row,) = await connection.fetch(TENANTS_SHARE, registration.operation.tenant)
    for limit, most, has, more in (
        ("documents_per_tenant", registration.most_documents, row["documents"], documents),
        ("bytes_per_tenant", registration.most_bytes, row["bytes"], size),
    ):
        if most and more > 0 and has + more > most:
            raise DocumentLimitReached(limit, most)


async def _revived(
    connection: Connection, registration: Registration, row: Row, revision: int
) -> tuple[Row, bool]:
    """Have the document indexed again if it is not, and nobody is about to."""
    key = row["tenant"], row["document_id"]
    if row["state"] == "PENDING":
        return row, False
    if row["state"] != "FAILED" and await _is_indexed(connection, registration, row):
        (row,) = await connection.fetch(RESTORE, *key)
        return row, False
    form = enum_name(DocumentFormat.DESCRIPTOR, registration.document.format)
    (row,) = await connection.fetch(REVIVE, *key, form, revision)
    return row, True


async def _is_indexed(connection: Connection, registration: Registration, row: Row) -> bool:
    """Return whether the index version has the document's content."""
    if row["indexed_version"] != row["version"]:
        return False
    version_id = registration.index_version
    held = row["tenant"], row["document_id"], row["version"], version_id
    return row["index_version"] == version_id or bool(await connection.fetch(INDEXED, *held))


async def _replaced(
    connection: Connection, registration: Registration, row: Row, revision: int
) -> Row:
    document = registration.document
    tenant, replaced = row["tenant"], row["content_hash"]
    larger = document.size - row["size"]
    await _require_room(connection, registration, documents=0, size=larger)
    content = (tenant, document.content_hash, registration.content)
    await connection.write(KEEP_CONTENT, [content])
    form = enum_name(DocumentFormat.DESCRIPTOR, document.format)
    (row,) = await connection.fetch(
        REPLACE,
        tenant,
        document.document_id,
        document.content_hash,
        document.size,
        form,
        revision,
    )
    await connection.write(DROP_CONTENT, [(tenant, replaced)])
    return row


def _registered(row: Row, *, indexes: bool, revision: int) -> Registered:
    return Registered(document=document_of(row), indexes=indexes, revision=revision)


async def _accessible(connection: Connection, operation: Operation, document_id: str) -> Row:
    """Return a document of the user or of a collection; raises DocumentNotFound."""
    key = operation.tenant, operation.user_id, document_id
    return _found(await connection.fetch(ACCESSIBLE, *key), document_id)


def _found(rows: Sequence[Row], document_id: str) -> Row:
    if not rows:
        raise DocumentNotFound(document_id)
    return rows[0]
