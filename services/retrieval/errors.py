"""What can go wrong with documents, and with what keeps them."""

from google.rpc.error_details_pb2 import BadRequest, ResourceInfo

from services.runtime.errors import (
    Aborted,
    DataLoss,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServiceError,
    Unavailable,
)


class BadDocument(InvalidArgument):
    """The document cannot be stored as it is: names the field and the fix."""

    default_reason = "BAD_DOCUMENT"


class DocumentNotFound(NotFound):
    """There is no such document, or it is not the caller's; names the request's field."""

    def __init__(self, document_id: str, *, field: str = "document_id") -> None:
        problem = f"document {document_id!r} does not exist"
        violation = BadRequest.FieldViolation(field=field, description=problem)
        ServiceError.__init__(
            self,
            f"{field}: {problem}",
            reason="DOCUMENT_NOT_FOUND",
            extra=[
                ResourceInfo(resource_type="document", resource_name=document_id),
                BadRequest(field_violations=[violation]),
            ],
        )


class NobodysDocuments(PermissionDenied):
    """The caller acts for no user, and documents belong to users."""

    default_reason = "NO_USER"

    def __init__(self) -> None:
        super().__init__("documents belong to a tenant and a user: the call is for neither")


class DocumentChanging(Aborted):
    """Chunks were removed as fast as they were added: other documents share them."""

    default_reason = "DOCUMENT_CHANGING"


class VectorsLeft(Unavailable):
    """The index still has chunks of a document that was removed from it."""

    default_reason = "VECTORS_LEFT"

    def __init__(self, document_id: str, count: int) -> None:
        super().__init__(f"{count} chunks of document {document_id!r} are left", retry_after=1.0)


class BadIndexFile(InvalidArgument):
    """The file of an index version cannot be taken: says where and why."""

    default_reason = "BAD_INDEX_FILE"

    def __init__(self, problem: str) -> None:
        super().__init__("content", problem)


class IndexUnavailable(Unavailable):
    """The vector index does not answer now. What was to be written may have been written."""

    default_reason = "INDEX_UNAVAILABLE"


class IndexDamaged(DataLoss):
    """The vector index cannot be read. Documents are safe: a new index can be built from them."""

    default_reason = "INDEX_DAMAGED"


class IndexTooSlow(DeadlineExceeded):
    """The caller's time was spent before the vector index answered."""

    default_reason = "INDEX_TOO_SLOW"


class IndexRefused(Internal):
    """The vector index answered, and will not do it: asking again would change nothing."""

    default_reason = "INDEX_REFUSED"


class ParserUnavailable(Unavailable):
    """Documents cannot be parsed now."""

    default_reason = "PARSER_UNAVAILABLE"


class EmbedderUnavailable(Unavailable):
    """Texts cannot be embedded now."""

    default_reason = "EMBEDDER_UNAVAILABLE"


class BadIndexUrl(Exception):
    """The index URL names no index that this service knows; says which it does."""


class BadEmbedderUrl(Exception):
    """The embedder's URL names none that this service can use; says why."""


class IndexMismatch(Exception):
    """The index of that name holds other vectors: says which it has and which are needed."""


class VersionGone(Aborted):
    """The index version is dropped."""

    default_reason = "INDEX_VERSION_GONE"

    def __init__(self, version_id: str) -> None:
        super().__init__(f"index version {version_id} is dropped: try again")


class VersionUnusable(Unavailable):
    """This process cannot open the index version: it lacks its model or its index."""

    default_reason = "INDEX_VERSION_UNUSABLE"

    def __init__(self, version_id: str, problem: str) -> None:
        super().__init__(f"index version {version_id}: {problem}", retry_after=5.0)
