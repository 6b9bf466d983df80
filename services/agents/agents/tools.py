"""The tools of the direct agent: what a model may look up while it answers."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated

import grpc
from pydantic import BaseModel, ConfigDict, Field

from maieutic.v1.document_service_pb2 import Passage, SearchDocumentsRequest
from maieutic.v1.message_pb2 import Message
from services.agents.agents import handing_on, known
from services.agents.agents.asking import as_data, said_by, schema_of
from services.agents.agents.citations import Sources, fenced
from services.agents.agents.loop import Tool, Tools
from services.agents.agents.team_tools import MoreTools
from services.agents.ports import AgentContext, ModelTool, Notice
from services.runtime.errors import from_rpc
from services.runtime.identity import acting_for

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub

SEARCH = "search_documents"
SPECIFICATIONS = "list_specifications"
HISTORY = "get_session_conversation_history"
OURS = (SEARCH, SPECIFICATIONS, HISTORY, *handing_on.NAMES)
PASSAGES = 5
MOST_PASSAGES = 10
QUERY_CHARACTERS = 8192
"""What a search accepts; a longer question is searched for by its beginning."""
PAGE_MESSAGES = 20
PAGE_CHARACTERS = 16_000
"""Of messages as they are written for the model; a page has at least one."""
TOKEN_CHARACTERS = 256
SEARCHING = Notice(code="SEARCHING", text="Searching your documents")
READING_CONVERSATION = Notice(
    code="READING_CONVERSATION", text="Reading what was said in this conversation"
)
READING_SPECIFICATIONS = Notice(code="READING_SPECIFICATIONS", text="Reading what you have settled")


class _Search(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: Annotated[
        str,
        Field(
            min_length=1,
            max_length=QUERY_CHARACTERS,
            description="What to search for, in the words that the passages may use.",
        ),
    ]
    limit: Annotated[
        int, Field(ge=1, le=MOST_PASSAGES, description="Most passages, from 1 to 10.")
    ] = PASSAGES


class _Page(BaseModel):
    model_config = ConfigDict(extra="forbid")

    page: Annotated[
        str,
        Field(
            max_length=TOKEN_CHARACTERS,
            description="next_page of the page before; empty for the newest messages.",
        ),
    ] = ""


class _Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DirectTools:
    """Makes the tools of a turn; what a model is told of them is the same for all turns."""

    def __init__(self, documents: "DocumentServiceAsyncStub", more: MoreTools) -> None:
        """*more* are those of others; none of them is named as one of ours."""
        self._documents = documents
        self._more = more
        self._search = ModelTool(
            name=SEARCH,
            description="Searches the documents of this conversation and returns passages, each "
            "with the number by which it is cited. Search again in other words if what you have "
            "does not hold the answer.",
            schema=schema_of(_Search),
        )
        self._specifications = ModelTool(
            name=SPECIFICATIONS,
            description="Lists what the user has settled so far in this conversation.",
            schema=schema_of(_Nothing),
        )
        self._history = ModelTool(
            name=HISTORY,
            description="Returns what was said in this conversation, newest first, page by page, "
            "from its beginning on: also what is no longer among the messages that you see.",
            schema=schema_of(_Page),
        )

    def of(self, context: AgentContext, sources: Sources) -> Tools:
        """Return what may be used for the turn; what a search finds is added to *sources*."""
        return [
            *self._searching(context, sources),
            self._listing(context),
            self._reading(context),
            *self._more(context),
        ]

    async def passages(
        self, context: AgentContext, query: str, limit: int = PASSAGES
    ) -> Sequence[Passage]:
        """Search the session's documents, and no others, for the turn's user.

        Raises ServiceError.
        """
        request = SearchDocumentsRequest(
            query=query[:QUERY_CHARACTERS], document_ids=context.document_ids, limit=limit
        )
        try:
            with acting_for(context.tenant, context.user_id):
                response = await self._documents.SearchDocuments(request)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        return response.passages

    def _searching(self, context: AgentContext, sources: Sources) -> Tools:
        async def search(given: _Search) -> str:
            found = await self.passages(context, given.query, given.limit)
            return fenced(sources.add(found))

        # A search that names no documents would search all of the user's.
        if not context.document_ids:
            return ()
        return (Tool(told=self._search, form=_Search, notice=SEARCHING, call=search),)

    def _listing(self, context: AgentContext) -> Tool[_Nothing]:
        async def settled(_: _Nothing) -> str:
            return known.specifications(context).text

        return Tool(
            told=self._specifications,
            form=_Nothing,
            notice=READING_SPECIFICATIONS,
            call=settled,
        )

    def _reading(self, context: AgentContext) -> Tool[_Page]:
        async def read(given: _Page) -> str:
            messages, token = await context.history(given.page, PAGE_MESSAGES)
            if (fitting := _fitting(messages)) < len(messages):
                messages, token = await context.history(given.page, fitting)
            # The token comes first: whatever is cut, the model can go on.
            return as_data({"next_page": token, "messages": [_said(one) for one in messages]})

        return Tool(told=self._history, form=_Page, notice=READING_CONVERSATION, call=read)


def _fitting(messages: Sequence[Message]) -> int:
    """Return how many of the messages fit a page, at least one."""
    sizes = accumulate(len(as_data(_said(one))) for one in messages)
    return max(1, sum(size <= PAGE_CHARACTERS for size in sizes))


def _said(message: Message) -> dict[str, str]:
    return {
        "author": said_by(message),
        "time": message.create_time.ToJsonString(),
        "text": message.text,
    }
