"""The agent that answers questions, from the session's documents where there are some."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration

from maieutic.v1.document_service_pb2 import Passage, SearchDocumentsRequest
from maieutic.v1.turn_service_pb2 import Usage
from services.agents.agents.citations import cited, fenced, numbered
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Delta,
    Model,
    ModelRequest,
    ModelUsage,
    Notice,
    TextDelta,
)
from services.agents.prompts import Prompt, load_prompt
from services.runtime.errors import from_rpc
from services.runtime.identity import acting_for

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub

STEP = "direct"
CUT = Notice(code="ANSWER_CUT", text="The answer is longer than may be said at once: ask to go on")
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
        async with aclosing(self._ask(self._request(context, passages))) as events:
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

    def _request(self, context: AgentContext, passages: Sequence[Passage]) -> ModelRequest:
        prompts, given = self._prompts, numbered(passages)
        return ModelRequest(
            turn_id=context.turn_id,
            system=(prompts.grounded if context.document_ids else prompts.ungrounded).text,
            messages=context.messages,
            passages=given,
            grounding=fenced(given),
        )

    async def _ask(self, request: ModelRequest) -> AsyncGenerator[Delta | Notice | Usage, None]:
        started = monotonic()
        async with self._model.stream(request) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    yield Delta(text=event.text)
                else:
                    if event.cut:
                        yield CUT
                    yield _usage(event, monotonic() - started)


def _usage(consumed: ModelUsage, seconds: float) -> Usage:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return Usage(
        step=STEP,
        model=consumed.model,
        input_tokens=consumed.input_tokens,
        output_tokens=consumed.output_tokens,
        cached_tokens=consumed.cached_tokens,
        duration=duration,
    )
