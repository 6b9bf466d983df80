"""The documents that a turn is about, of a collection or of its session: listed and searched."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from maieutic.v1.document_service_pb2 import (
    Document,
    GetDocumentRequest,
    ListDocumentsRequest,
    Passage,
    SearchDocumentsRequest,
)
from services.agents.agents.parallel import each
from services.agents.agents.tools import QUERY_CHARACTERS
from services.agents.ports import AgentContext
from services.runtime.errors import NotFound, from_rpc
from services.runtime.identity import acting_for

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub

PAGE_DOCUMENTS = 200
AT_ONCE = 8


class Shelf:
    """Reads documents for the turn's user, and no others. Raises ServiceError."""

    def __init__(self, service: "DocumentServiceAsyncStub") -> None:
        self._service = service

    async def documents(self, context: AgentContext) -> Sequence[Document]:
        """Return those that can be searched."""
        try:
            with acting_for(context.tenant, context.user_id):
                if context.collection:
                    found = await self._of_collection(context.collection)
                else:
                    found = await self._of_session(context.document_ids)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        return [one for one in found if one.indexed_version]

    async def passages(
        self, context: AgentContext, documents: Sequence[Document], query: str, limit: int
    ) -> Sequence[Passage]:
        """Return what is nearest to the query in these documents, at least one."""
        request = SearchDocumentsRequest(query=query[:QUERY_CHARACTERS], limit=limit)
        if context.collection:
            request.collections.append(context.collection)
        else:
            request.document_ids.extend(one.document_id for one in documents)
        try:
            with acting_for(context.tenant, context.user_id):
                return (await self._service.SearchDocuments(request)).passages
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def _of_collection(self, collection: str) -> list[Document]:
        found: list[Document] = []
        request = ListDocumentsRequest(collection=collection, page_size=PAGE_DOCUMENTS)
        while True:
            page = await self._service.ListDocuments(request)
            found.extend(page.documents)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def _of_session(self, document_ids: Sequence[str]) -> list[Document]:
        found = await each(self._document, document_ids, at_once=AT_ONCE)
        return [one for one in found if one is not None]

    async def _document(self, document_id: str) -> Document | None:
        """Return the document; None if the user has given it up since."""
        try:
            request = GetDocumentRequest(document_id=document_id)
            return (await self._service.GetDocument(request)).document
        except grpc.aio.AioRpcError as error:
            if isinstance(from_rpc(error), NotFound):
                return None
            raise
