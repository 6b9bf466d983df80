"""Which documents a search is kept to, by what is known about them. Pure."""

from google.protobuf.timestamp_pb2 import Timestamp

from maieutic.v1.document_service_pb2 import Document, DocumentFilter


def admits(wanted: DocumentFilter, document: Document) -> bool:
    """Tell whether the document meets all that the filter sets."""
    created = _instant(document.create_time)
    return (
        (not wanted.formats or document.format in wanted.formats)
        and wanted.name_contains.casefold() in document.name.casefold()
        and not (wanted.HasField("created_since") and created < _instant(wanted.created_since))
        and not (wanted.HasField("created_before") and created >= _instant(wanted.created_before))
    )


def _instant(time: Timestamp) -> tuple[int, int]:
    return time.seconds, time.nanos
