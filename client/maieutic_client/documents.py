"""Documents and the passages in them."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from pathlib import PurePath

from maieutic.v1 import document_admin_service_pb2 as admin_pb, document_service_pb2 as pb
from maieutic.v1.document_admin_service_pb2_grpc import DocumentAdminServiceStub
from maieutic.v1.document_service_pb2_grpc import DocumentServiceStub
from maieutic_client.connection import Connection, new_request_id

ADD_TIMEOUT_SECONDS = 120.0
PART_BYTES = 256 * 1024
ADD_BYTES = 2 * 1024 * 1024
"""Content that `add` takes; more goes by `upload`."""
FORMATS = {
    ".md": pb.DOCUMENT_FORMAT_MARKDOWN,
    ".markdown": pb.DOCUMENT_FORMAT_MARKDOWN,
    ".html": pb.DOCUMENT_FORMAT_HTML,
    ".htm": pb.DOCUMENT_FORMAT_HTML,
    ".pdf": pb.DOCUMENT_FORMAT_PDF,
    ".docx": pb.DOCUMENT_FORMAT_DOCX,
}
"""By the ending of a file's name; any other is plain text."""


class Documents:
    """`client.documents`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = DocumentServiceStub(connection.channel)
        self._admin = DocumentAdminServiceStub(connection.channel)

    async def add(
        self,
        name: str,
        content: bytes | str,
        *,
        format: pb.DocumentFormat.ValueType | None = None,  # noqa: A002 - the field's name
        wait: bool = True,
        request_id: str | None = None,
        timeout: float = ADD_TIMEOUT_SECONDS,  # noqa: ASYNC109 - it spans several tries
    ) -> pb.AddDocumentResponse:
        """Store a document and have it indexed; it is safe when this returns.

        Text, Markdown, HTML, PDF or DOCX, as the file is; without a *format* the name's ending
        decides. Content that is stored already is embedded once only: the response tells how many
        chunks were. The document in it is READY, or PENDING with a `failure` if the index is away;
        without *wait* it may be PENDING without one. Raises InvalidArgument if it cannot be read.
        """
        request = pb.AddDocumentRequest(
            request_id=request_id or new_request_id(),
            name=name,
            format=format_of(name) if format is None else format,
            content=content.encode() if isinstance(content, str) else content,
            accept_only=not wait,
        )
        return await self._connection.call(self._stub.AddDocument, request, timeout=timeout)

    async def upload(
        self,
        name: str,
        content: bytes,
        *,
        format: pb.DocumentFormat.ValueType | None = None,  # noqa: A002 - the field's name
        document_id: str = "",
        request_id: str | None = None,
    ) -> AsyncIterator[pb.Document]:
        """Send a document of any size in parts; yields it once it is safe, and as it is indexed.

        With a *document_id* it replaces that document's content. Raises InvalidArgument if it
        cannot be read. It is not tried again: the same *request_id* takes it up.
        """
        header = pb.UploadHeader(
            request_id=request_id or new_request_id(),
            name="" if document_id else name,
            document_id=document_id,
            format=format_of(name) if format is None else format,
        )
        told = self._connection.sent(self._stub.UploadDocument, _parts(header, content))
        async with aclosing(told):
            async for response in told:
                yield response.document

    async def replace(
        self,
        document_id: str,
        content: bytes | str,
        *,
        format: pb.DocumentFormat.ValueType,  # noqa: A002 - the field's name
        wait: bool = True,
        request_id: str | None = None,
        timeout: float = ADD_TIMEOUT_SECONDS,  # noqa: ASYNC109 - it spans several tries
    ) -> pb.ReplaceDocumentResponse:
        """Give a document other content; whoever refers to it sees that. As `add` otherwise."""
        request = pb.ReplaceDocumentRequest(
            request_id=request_id or new_request_id(),
            document_id=document_id,
            format=format,
            content=content.encode() if isinstance(content, str) else content,
            accept_only=not wait,
        )
        return await self._connection.call(self._stub.ReplaceDocument, request, timeout=timeout)

    async def check(self, *, repair: bool = False) -> admin_pb.CheckDocumentsResponse:
        """Compare the registry with the vector index, for all tenants; needs an admin's key."""
        request = admin_pb.CheckDocumentsRequest(repair=repair)
        return await self._connection.call(
            self._admin.CheckDocuments, request, timeout=ADD_TIMEOUT_SECONDS
        )

    async def clean_up(self, *, dry_run: bool = False) -> admin_pb.CleanUpDocumentsResponse:
        """Give up documents that were not used for long, or only tell; needs an admin's key."""
        request = admin_pb.CleanUpDocumentsRequest(dry_run=dry_run)
        return await self._connection.call(
            self._admin.CleanUpDocuments, request, timeout=ADD_TIMEOUT_SECONDS
        )

    async def totals(self) -> admin_pb.DocumentTotals:
        """Count the documents of all tenants; needs an admin's key."""
        request = admin_pb.GetDocumentTotalsRequest()
        return (await self._connection.call(self._admin.GetDocumentTotals, request)).totals

    async def watch(self, document_id: str) -> AsyncIterator[pb.Document]:
        """Yield a document whenever its indexing comes forward, until it is READY or FAILED.

        Goes on where it was cut off.
        """
        request = pb.WatchDocumentRequest(document_id=document_id)
        told = self._connection.repeated(self._stub.WatchDocument, request)
        async with aclosing(told):
            async for response in told:
                yield response.document

    async def get(self, document_id: str) -> pb.Document:
        """Return one of the caller's documents; raises NotFound."""
        request = pb.GetDocumentRequest(document_id=document_id)
        return (await self._connection.call(self._stub.GetDocument, request)).document

    async def list(
        self, *, page_size: int = 0, collection: str = "", document_set_id: str = ""
    ) -> AsyncIterator[pb.Document]:
        """Iterate over the caller's documents, newest first; pages are fetched as needed.

        Or over those of a collection or a set.
        """
        request = pb.ListDocumentsRequest(
            page_size=page_size, collection=collection, document_set_id=document_set_id
        )
        async for page in self._connection.pages(self._stub.ListDocuments, request):
            for document in page.documents:
                yield document

    async def delete(self, document_id: str, *, request_id: str | None = None) -> None:
        """Give up the caller's reference; the last one removes the document."""
        request = pb.DeleteDocumentRequest(
            document_id=document_id, request_id=request_id or new_request_id()
        )
        await self._connection.call(self._stub.DeleteDocument, request)

    async def make_set(self, document_ids: Iterable[str], *, request_id: str | None = None) -> str:
        """Refer to documents as a set and return its id: the same for the same members."""
        request = pb.CreateDocumentSetRequest(
            request_id=request_id or new_request_id(), document_ids=document_ids
        )
        answer = await self._connection.call(self._stub.CreateDocumentSet, request)
        return answer.document_set_id

    async def attach(
        self, collection: str, document_ids: Iterable[str], *, request_id: str | None = None
    ) -> str:
        """Put documents into a collection, which all users of the tenant may search.

        Returns a version token for searches.
        """
        request = pb.AttachDocumentsRequest(
            request_id=request_id or new_request_id(),
            collection=collection,
            document_ids=document_ids,
        )
        return (await self._connection.call(self._stub.AttachDocuments, request)).version_token

    async def detach(
        self,
        collection: str = "",
        document_ids: Iterable[str] = (),
        *,
        document_set_id: str = "",
        request_id: str | None = None,
    ) -> str:
        """Take documents out of a collection, or give up a set as a whole.

        Returns a version token for searches.
        """
        request = pb.DetachDocumentsRequest(
            request_id=request_id or new_request_id(),
            collection=collection,
            document_ids=document_ids,
            document_set_id=document_set_id,
        )
        return (await self._connection.call(self._stub.DetachDocuments, request)).version_token

    async def search(
        self,
        query: str,
        *,
        document_ids: Iterable[str] = (),
        limit: int = 0,
        fetch: int = 0,
        minimum_score: float | None = None,
        mmr_lambda: float | None = None,
        collections: Iterable[str] = (),
        document_set_ids: Iterable[str] = (),
        version_token: str = "",
        filter: pb.DocumentFilter | None = None,  # noqa: A002 - the field's name
    ) -> Sequence[pb.Passage]:
        """Return the passages that answer best, best first.

        From these documents, collections and sets; if none is named, from all the caller's; of
        them from those that meet the *filter*. A
        *version_token* is waited for: the answer sees what the call did that gave it, if that was
        done within seconds.

        They are chosen among the *fetch* nearest in meaning, 20 if 0; those below *minimum_score*
        are left out, and an *mmr_lambda* below 1 prefers passages that differ from each other.
        """
        request = pb.SearchDocumentsRequest(
            query=query,
            document_ids=document_ids,
            limit=limit,
            fetch=fetch,
            minimum_score=minimum_score,
            mmr_lambda=mmr_lambda,
            collections=collections,
            document_set_ids=document_set_ids,
            version_token=version_token,
            filter=filter,
        )
        return (await self._connection.call(self._stub.SearchDocuments, request)).passages


async def _parts(
    header: pb.UploadHeader, content: bytes
) -> AsyncIterator[pb.UploadDocumentRequest]:
    yield pb.UploadDocumentRequest(header=header)
    for start in range(0, len(content), PART_BYTES):
        yield pb.UploadDocumentRequest(content=content[start : start + PART_BYTES])


def format_of(name: str) -> pb.DocumentFormat.ValueType:
    """Return the format that the name's ending tells, else plain text."""
    return FORMATS.get(PurePath(name).suffix.lower(), pb.DOCUMENT_FORMAT_TEXT)
