"""Which documents sessions draw from, beside the sessions: one follows from the other."""

from collections.abc import Iterable

from maieutic.v1.session_service_pb2 import Session
from services.persistence.adapters.sql import Connection
from services.persistence.model import SessionRow

KEEP = """
INSERT INTO session_documents (session_id, document_id) VALUES ($1, $2) ON CONFLICT DO NOTHING
"""

DROP_OTHERS = """
DELETE FROM session_documents WHERE session_id = $1 AND NOT document_id = ANY($2)
"""

FORGET_SESSION_DOCUMENTS = "DELETE FROM session_documents WHERE session_id = $1"


async def keep_session_documents(connection: Connection, rows: Iterable[SessionRow]) -> None:
    """Have the documents of these sessions be those of their rows, which were just stored."""
    documents = {row.session_id: list(Session.FromString(row.record).document_ids) for row in rows}
    await connection.write(DROP_OTHERS, documents.items())
    await connection.write(
        KEEP, [(session_id, document) for session_id, ids in documents.items() for document in ids]
    )
