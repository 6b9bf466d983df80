"""The agent that answers questions, from the session's documents where there are some."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from maieutic.v1.document_service_pb2 import Passage, SearchDocumentsRequest
from maieutic.v1.turn_service_pb2 import Usage
from services.agents.agents.asking import streamed
from services.agents.agents.citations import cited, fenced, numbered
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Delta,
    Model,
    ModelRequest,
    Notice,
)
from services.agents.prompts import Prompt, load_prompt
from services.runtime.errors import from_rpc
from services.runtime.identity import acting_for

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub

STEP = "direct"
PASSAGES = 5
QUERY_CHARACTERS = 8192
"""What a search accepts; a longer question is searched for by its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPrompts:
    """What the agent tells its model, with and without documents."""

    grounded: Prompt
    ungrounded: Prompt


def direct_prompts() -> DirectPrompts:
    """Read the prompts of the present version."""
    return DirectPrompts(
        grounded=load_prompt("direct", 1), ungrounded=load_prompt("direct_without_documents", 1)
    )


class DirectAgent:
    """Searches, asks the model once, cites what the answer refers to."""

    def __init__(
        self, model: Model, documents: "DocumentServiceAsyncStub", prompts: DirectPrompts
    ) -> None:
        self._model = model
        self._documents = documents
        self._prompts = prompts

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Answer the last message."""
        passages: Sequence[Passage] = ()
        if context.document_ids:
            yield Notice(code="SEARCHING", text="Searching your documents")
            passages = await self._search(context)
        text: list[str] = []
        request, prompt = self._request(context, passages), self._prompt(context)
        asking = streamed(self._model, request, prompt=prompt.label)
        async with aclosing(asking) as events:
            async for event in events:
                if isinstance(event, Usage):
                    whole = "".join(text)
                    yield Answer(text=whole, citations=cited(whole, passages), usage=(event,))
                    continue
                if isinstance(event, Delta):
                    text.append(event.text)
                yield event

    async def _search(self, context: AgentContext) -> Sequence[Passage]:
        request = SearchDocumentsRequest(
            query=context.messages[-1].text[:QUERY_CHARACTERS],
            document_ids=context.document_ids,
            limit=PASSAGES,
        )
        try:
            with acting_for(context.tenant, context.user_id):
                response = await self._documents.SearchDocuments(request)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        return response.passages

    def _prompt(self, context: AgentContext) -> Prompt:
        return self._prompts.grounded if context.document_ids else self._prompts.ungrounded

    def _request(self, context: AgentContext, passages: Sequence[Passage]) -> ModelRequest:
        given = numbered(passages)
        return ModelRequest(
            turn_id=context.turn_id,
            step=STEP,
            system=self._prompt(context).text,
            messages=context.messages,
            passages=given,
            grounding=fenced(given),
        )
