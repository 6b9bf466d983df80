"""What the document registry needs from a database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from maieutic.v1.document_admin_service_pb2 import DocumentTotals
from maieutic.v1.document_service_pb2 import Document, DocumentUsage, IngestProgress
from services.persistence.model import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A request that changes something; the same one again changes nothing more."""

    tenant: str
    user_id: str
    request_id: str
    """Empty: a repetition cannot be told."""
    request_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A document that an owner adds."""

    operation: Operation
    document: Document
    content: bytes
    index_version: str
    """What it must be indexed under."""
    most_documents: int = 0
    """Of the tenant; 0: no limit."""
    most_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The stored document."""

    document: Document
    indexes: bool
    """Whether this request, or its first try, gave the index something to do."""
    revision: int = 0
    """Of the tenant's documents, once this is done."""


class Scope(Enum):
    """What kind of owner refers to a document."""

    USER = "USER"
    SET = "SET"
    COLLECTION = "COLLECTION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who refers to documents of a tenant."""

    scope: Scope
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What giving up references has left."""

    document_ids: Sequence[str]
    """Those that nobody refers to any more."""
    revision: int


class Work(Enum):
    """What is to be done with a document's vectors."""

    NONE = "none"
    HELD = "held"
    """Somebody else does it, or it is too early for another attempt."""
    INDEX = "index"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What a worker was given."""

    work: Work
    document: Document | None = None
    content: bytes = b""
    index_versions: Sequence[str] = ()
    """Under which to do it, the one that is searched first; none before there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A document, and a worker's right to its work."""

    tenant: str
    document_id: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedUnder:
    """What an index version has of a document."""

    index_version: str
    chunk_count: int
    chunks_embedded: int
    chunks_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What came of indexing a version."""

    version: int
    index_version: str = ""
    chunk_count: int = 0
    chunks_embedded: int = 0
    chunks_hash: str = ""
    """Of the ids of the chunks that are in the index."""
    failure: str = ""
    """Set: it cannot be indexed, for this reason."""
    indexes: Sequence[IndexedUnder] = ()
    """Under each index version; empty from who knows of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedDocument:
    """What the index must hold of a document."""

    document_id: str
    changing: bool
    """Somebody is about to change it."""
    indexed_version: int
    chunks_hash: str
    revision: int
    content_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """After how many seconds without use a reference expires; None: never."""

    user: float | None
    document_set: float | None
    collection: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredReference:
    """A reference that was not used for long."""

    tenant: str
    owner: Owner
    document_id: str
    last_used_time: datetime


class DocumentRegistry(Protocol):
    """Documents, and who refers to them. A document that nobody refers to is to be removed.

    What the same tenant adds again is the document that consists of it now. Every method raises
    ArchiveUnavailable while the database is away.
    """

    async def register_document(self, registration: Registration) -> Registered:
        """Refer the user to the document, and store it unless the tenant has its content.

        Raises RequestIdTaken, DocumentIdTaken, DocumentLimitReached, and DocumentNotFound for a
        repeated request whose document the user has given up since.
        """
        ...

    async def replace_document(self, registration: Registration) -> Registered:
        """Give the user's document of that id other content.

        Raises RequestIdTaken, DocumentNotFound and DocumentLimitReached.
        """
        ...

    async def get_document(self, tenant: str, user_id: str, document_id: str) -> Document:
        """Return a document of the user or of a collection; raises DocumentNotFound."""
        ...

    async def document_usage(self, tenant: str, document_id: str) -> DocumentUsage:
        """Return who has a document, and how it was indexed; zeros for one that is gone."""
        ...

    async def list_documents(
        self, tenant: str, owner: Owner, *, before: Place | None, limit: int
    ) -> Sequence[Document]:
        """Return the owner's documents, newest first."""
        ...

    async def attach_documents(
        self, operation: Operation, owner: Owner, document_ids: Sequence[str]
    ) -> int:
        """Have the owner refer to documents, to all or to none; returns the tenant's revision.

        Raises RequestIdTaken, and DocumentNotFound for a document that is neither the user's nor
        of a collection.
        """
        ...

    async def detach_documents(
        self, operation: Operation, owner: Owner, document_ids: Sequence[str]
    ) -> Released:
        """Drop the owner's references to these documents, to all if none is named.

        Tells, also when it is repeated, which of those named nobody refers to any more. Raises
        RequestIdTaken.
        """
        ...


class DocumentUpkeep(Protocol):
    """What is done with documents that nobody asked for, of all tenants.

    Every method raises ArchiveUnavailable while the database is away.
    """

    async def touch_documents(self, tenant: str, owner: Owner, document_ids: Sequence[str]) -> None:
        """Note that the owner has used these documents, or all that it has if none is named."""
        ...

    async def expired_references(self, expiry: Expiry, limit: int) -> Sequence[ExpiredReference]:
        """Return references that were not used for so long, the oldest first."""
        ...

    async def drop_expired(
        self, references: Sequence[ExpiredReference]
    ) -> Sequence[tuple[str, str]]:
        """Drop those that were not used since they were read.

        Returns tenant and id of the documents that nobody refers to any more. Forgets what
        requests did over a day ago, too.
        """
        ...

    async def document_totals(self, *, active: float) -> DocumentTotals:
        """Count the documents; those that were used within *active* seconds are active."""
        ...


class DocumentWork(Protocol):
    """Who brings the index to what the registry says of a document; one worker at a time.

    Every method raises ArchiveUnavailable while the database is away.
    """

    async def claim_document(self, claim: Claim, *, lease: float, most_attempts: int) -> Claimed:
        """Give the work to the claim for *lease* seconds.

        A document that was claimed *most_attempts* times and never finished is FAILED.
        """
        ...

    async def renew_claim(
        self, claim: Claim, *, lease: float, progress: IngestProgress | None
    ) -> bool:
        """Extend a claim and note the progress; False if it is another's by now."""
        ...

    async def release_claim(
        self, claim: Claim, *, pause: float, uncounted: bool, problem: str
    ) -> None:
        """Leave the work to anybody in *pause* seconds; *uncounted* takes the attempt back."""
        ...

    async def finish_document(self, claim: Claim, indexed: Indexed) -> Document | None:
        """End a claim: the version is in the index, or cannot be.

        A document that was changed meanwhile is left for the next claim. Returns None, with
        nothing changed, if the claim is another's by now.
        """
        ...

    async def drop_document(self, claim: Claim) -> bool:
        """End a claim to remove; False if the document was added again, or the claim is lost."""
        ...

    async def reindex_document(self, tenant: str, document_id: str) -> None:
        """Have a document indexed again, whatever its state; one that is being removed is left."""
        ...

    async def document_tenants(self, *, after: str, limit: int) -> Sequence[str]:
        """Return the tenants that ever had documents, by name."""
        ...

    async def indexed_documents(
        self, tenant: str, *, after: str, limit: int
    ) -> Sequence[IndexedDocument]:
        """Return the tenant's documents by id, with what the index must hold of them."""
        ...

    async def due_documents(self, *, lease: float, limit: int) -> Sequence[tuple[str, str]]:
        """Return tenant and id of documents whose work nobody does, each to one caller."""
        ...
