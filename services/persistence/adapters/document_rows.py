"""Documents as the registry's rows have them."""

from maieutic.v1.document_service_pb2 import (
    Document,
    DocumentFormat,
    DocumentState,
    DocumentUsage,
    IngestProgress,
    IngestStage,
)
from services.persistence.adapters.sql import Row, moment

STATE_PREFIX = "DOCUMENT_STATE_"
FORMAT_PREFIX = "DOCUMENT_FORMAT_"
STAGE_PREFIX = "INGEST_STAGE_"
REMOVING = "REMOVING"

DROP_CONTENT = """
DELETE FROM document_contents WHERE tenant = $1 AND content_hash = $2 AND NOT EXISTS (
    SELECT 1 FROM documents WHERE documents.tenant = $1 AND documents.content_hash = $2
)
"""


def document_of(row: Row) -> Document:
    """Return the document of a row; one that is being removed is seen by its worker alone."""
    state = "PENDING" if row["state"] == REMOVING else row["state"]
    document = Document(
        document_id=row["document_id"],
        name=row["name"],
        format=DocumentFormat.Value(FORMAT_PREFIX + row["format"]),
        state=DocumentState.Value(STATE_PREFIX + state),
        size=row["size"],
        chunk_count=row["chunk_count"],
        chunks_embedded=row["chunks_embedded"],
        revision=row["revision"],
        content_hash=row["content_hash"],
        version=row["version"],
        indexed_version=row["indexed_version"],
        failure=row["failure"],
        progress=IngestProgress(
            stage=IngestStage.Value(STAGE_PREFIX + row["stage"]),
            chunks_done=row["chunks_done"],
            chunks_total=row["chunks_total"],
        ),
    )
    document.create_time.FromDatetime(moment(row["create_time"]))
    document.update_time.FromDatetime(moment(row["update_time"]))
    return document


def usage_of(row: Row) -> DocumentUsage:
    """Return who has the document of a row, and how it was indexed."""
    usage = DocumentUsage(
        owner_count=row["owner_count"],
        session_count=row["session_count"],
        index_version=row["index_version"],
    )
    if row["last_used_time"] is not None:
        usage.last_used_time.FromDatetime(moment(row["last_used_time"]))
    return usage
