"""The registry of documents, and of who refers to them."""

from collections.abc import Sequence

from maieutic.v1.document_service_pb2 import Document, DocumentFormat, DocumentState
from services.persistence.adapters.sql import Connection, Database, Row, moment
from services.persistence.errors import (
    ArchiveUnavailable,
    DocumentIdTaken,
    DocumentNotFound,
    RequestIdTaken,
)
from services.persistence.facts import enum_name, visible
from services.persistence.ports import Place, Registration

STATE_PREFIX = "DOCUMENT_STATE_"
FORMAT_PREFIX = "DOCUMENT_FORMAT_"
ATTEMPTS = 5

CONTENT_OF_ID = """
SELECT content_hash FROM documents WHERE tenant = $1 AND document_id = $2
"""

# Without a named constraint: two who add the same at once may meet at either of the two.
KEEP_DOCUMENT = """
INSERT INTO documents (
    tenant, document_id, name, format, state, size, content_hash, chunk_count, create_time
) VALUES ($1, $2, $3, $4, 'PENDING', $5, $6, 0, now())
ON CONFLICT DO NOTHING
RETURNING document_id
"""

# The lock makes adding a document and releasing it happen one after the other.
DOCUMENT_OF_CONTENT = """
SELECT * FROM documents WHERE tenant = $1 AND content_hash = $2 FOR UPDATE
"""

KEEP_CONTENT = """
INSERT INTO document_bytes (tenant, document_id, content) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
"""

KEEP_OWNER = """
INSERT INTO document_owners (tenant, user_id, document_id) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
"""

KEEP_REQUEST = """
INSERT INTO document_requests (tenant, user_id, request_id, request_hash, document_id)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""

REQUEST = """
SELECT request_hash, document_id FROM document_requests
WHERE tenant = $1 AND user_id = $2 AND request_id = $3
"""

FINISH = """
UPDATE documents SET state = 'READY', chunk_count = $3
WHERE tenant = $1 AND document_id = $2
RETURNING *
"""

OWNED = """
SELECT documents.* FROM documents
JOIN document_owners AS owner
    ON owner.tenant = documents.tenant AND owner.document_id = documents.document_id
WHERE owner.tenant = $1 AND owner.user_id = $2 AND documents.document_id = $3
"""

OWNED_ALL = """
SELECT documents.* FROM documents
JOIN document_owners AS owner
    ON owner.tenant = documents.tenant AND owner.document_id = documents.document_id
WHERE owner.tenant = $1 AND owner.user_id = $2
ORDER BY documents.create_time DESC, documents.document_id DESC
LIMIT $3
"""

OWNED_BEFORE = """
SELECT documents.* FROM documents
JOIN document_owners AS owner
    ON owner.tenant = documents.tenant AND owner.document_id = documents.document_id
WHERE owner.tenant = $1 AND owner.user_id = $2
    AND (documents.create_time, documents.document_id) < ($4, $5)
ORDER BY documents.create_time DESC, documents.document_id DESC
LIMIT $3
"""

LOCK = "SELECT 1 AS one FROM documents WHERE tenant = $1 AND document_id = $2 FOR UPDATE"
DROP_OWNER = """
DELETE FROM document_owners WHERE tenant = $1 AND user_id = $2 AND document_id = $3
"""
OWNERS = """
SELECT user_id FROM document_owners WHERE tenant = $1 AND document_id = $2 LIMIT 1
"""
DROP_DOCUMENT = "DELETE FROM documents WHERE tenant = $1 AND document_id = $2"


class Registry:
    """The document registry; see `ports.DocumentRegistry`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register_document(self, registration: Registration) -> Document:
        """Refer the owner to the document, and store what is new."""
        tenant, user_id = registration.tenant, registration.user_id
        async with self._database.writing() as connection:
            row = await _kept(connection, registration)
            document_id: str = row["document_id"]
            await connection.write(KEEP_OWNER, [(tenant, user_id, document_id)])
            await _keep_request(connection, registration, document_id)
        return _document(row)

    async def finish_document(self, tenant: str, document_id: str, chunk_count: int) -> Document:
        """Mark a document as searchable."""
        async with self._database.writing() as connection:
            rows = await connection.fetch(FINISH, tenant, document_id, chunk_count)
        return _found(rows, document_id)

    async def get_document(self, tenant: str, user_id: str, document_id: str) -> Document:
        """Return one of the owner's documents."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(OWNED, tenant, user_id, document_id)
        return _found(rows, document_id)

    async def list_documents(
        self, tenant: str, user_id: str, *, before: Place | None, limit: int
    ) -> Sequence[Document]:
        """Return the owner's documents, newest first."""
        async with self._database.reading() as connection:
            if before is None:
                rows = await connection.fetch(OWNED_ALL, tenant, user_id, limit)
            else:
                rows = await connection.fetch(
                    OWNED_BEFORE, tenant, user_id, limit, before.time, before.id
                )
        return [_document(row) for row in rows]

    async def release_document(self, tenant: str, user_id: str, document_id: str) -> bool:
        """Drop the owner's reference, and the document with its last one."""
        async with self._database.writing() as connection:
            if not await connection.fetch(LOCK, tenant, document_id):
                return True
            await connection.write(DROP_OWNER, [(tenant, user_id, document_id)])
            if await connection.fetch(OWNERS, tenant, document_id):
                return False
            await connection.write(DROP_DOCUMENT, [(tenant, document_id)])
        return True


async def _kept(connection: Connection, registration: Registration) -> Row:
    """Return the locked row of the tenant's document with this content, made if there was none."""
    tenant, document = registration.tenant, registration.document
    for _ in range(ATTEMPTS):
        made = await _made(connection, registration)
        found = await connection.fetch(DOCUMENT_OF_CONTENT, tenant, document.content_hash)
        if found:
            if made:
                content = (tenant, document.document_id, registration.content)
                await connection.write(KEEP_CONTENT, [content])
            return found[0]
        if await connection.fetch(CONTENT_OF_ID, tenant, document.document_id):
            raise DocumentIdTaken(document.document_id)
        # It was there, and was released before it could be locked.
    raise ArchiveUnavailable


async def _made(connection: Connection, registration: Registration) -> bool:
    document = registration.document
    rows = await connection.fetch(
        KEEP_DOCUMENT,
        registration.tenant,
        document.document_id,
        visible(document.name),
        enum_name(DocumentFormat.DESCRIPTOR, document.format),
        document.size,
        document.content_hash,
    )
    return bool(rows)


async def _keep_request(
    connection: Connection, registration: Registration, document_id: str
) -> None:
    key = (registration.tenant, registration.user_id, registration.request_id)
    await connection.write(KEEP_REQUEST, [(*key, registration.request_hash, document_id)])
    (row,) = await connection.fetch(REQUEST, *key)
    # Read back after the insert: of two requests with one id at the same time, one is too late.
    if row["request_hash"] != registration.request_hash:
        raise RequestIdTaken(registration.request_id)


def _found(rows: Sequence[Row], document_id: str) -> Document:
    if not rows:
        raise DocumentNotFound(document_id)
    return _document(rows[0])


def _document(row: Row) -> Document:
    document = Document(
        document_id=row["document_id"],
        name=row["name"],
        format=DocumentFormat.Value(FORMAT_PREFIX + row["format"]),
        state=DocumentState.Value(STATE_PREFIX + row["state"]),
        size=row["size"],
        chunk_count=row["chunk_count"],
        content_hash=row["content_hash"],
    )
    document.create_time.FromDatetime(moment(row["create_time"]))
    return document
