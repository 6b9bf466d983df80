"""The citation agent's second step: what documents say of each claim."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from maieutic.v1.document_service_pb2 import Document
from maieutic.v1.message_pb2 import Citation
from maieutic.v1.support_pb2 import Claim, SupportReport
from maieutic.v1.turn_service_pb2 import Findings, Usage
from services.agents.agents.asking import Form, as_data
from services.agents.agents.citations import (
    Sources,
    citation_of,
    count_citations,
    fenced,
    words_of,
)
from services.agents.agents.claims import TEXT_CHARACTERS
from services.agents.agents.parallel import each
from services.agents.agents.shelf import Shelf
from services.agents.agents.support_reports import complete
from services.agents.agents.tools import SEARCHING
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Model,
    ModelMessage,
    ModelPassage,
    ModelSection,
    Notice,
)
from services.agents.prompts import Prompt

STEP = "citation_verdicts"
PASSAGES = 5
"""For each claim."""
SEARCHES_AT_ONCE = 4
CLAIMS_AT_ONCE = 10
"""In one call of the model, so that its answer is no longer than may be said at once."""
CALLS_AT_ONCE = 3
MOST_CITATIONS = 3
"""Of a claim, for and against it each."""
COMPARING = Notice(code="COMPARING", text="Comparing the claims with what the documents say")
ASK = ModelMessage(author=Author.USER, text="What do the passages say of each claim?")


class _Reference(BaseModel):
    model_config = ConfigDict(extra="forbid")

    passage: int
    quote: Annotated[str, Field(max_length=2000)]


class _Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    claim: int
    supporting: Annotated[list[_Reference], Field(max_length=20)]
    contradicting: Annotated[list[_Reference], Field(max_length=20)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    verdicts: Annotated[list[_Verdict], Field(max_length=4 * CLAIMS_AT_ONCE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A claim with what was found for it."""

    number: int
    """From 1, in the report."""
    claim: Claim
    passages: tuple[ModelPassage, ...]


class VerdictsAgent:
    """Compares claims with documents; says nothing to the user."""

    def __init__(self, model: Model, shelf: Shelf, prompt: Prompt) -> None:
        self._shelf = shelf
        self._form = Form(model, prompt, STEP, _Form)

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Complete the report of the step before. Raises ModelMalformed and ServiceError.

        A reference whose quotation no passage holds is left out and counted.
        """
        yield SEARCHING
        report, sources = SupportReport(), Sources()
        report.CopyFrom(context.findings.support)
        documents = await self._shelf.documents(context)
        questions = await self._questions(context, report.claims, documents, sources)
        usage = list[Usage]()
        if asked := [one for one in questions if one.passages]:
            yield COMPARING
            batches = [
                asked[start : start + CLAIMS_AT_ONCE]
                for start in range(0, len(asked), CLAIMS_AT_ONCE)
            ]
            answers = await each(
                lambda batch: self._compared(context, batch), batches, at_once=CALLS_AT_ONCE
            )
            for batch, (form, consumed) in zip(batches, answers, strict=True):
                usage.extend(consumed)
                report.citations_dropped += _judge(batch, form, sources)
        complete(report, documents)
        yield Answer(text="", usage=tuple(usage), findings=Findings(support=report))

    async def _questions(
        self,
        context: AgentContext,
        claims: Sequence[Claim],
        documents: Sequence[Document],
        sources: Sources,
    ) -> list[_Question]:
        """Search for each claim by itself; what is found for several has one number."""
        if not documents:
            return []
        found = await each(
            lambda claim: self._shelf.passages(context, documents, claim.text, PASSAGES),
            claims,
            at_once=SEARCHES_AT_ONCE,
        )
        return [
            _Question(number=number, claim=claim, passages=sources.add(passages))
            for number, (claim, passages) in enumerate(zip(claims, found, strict=True), start=1)
        ]

    async def _compared(
        self, context: AgentContext, batch: Sequence[_Question]
    ) -> tuple[_Form, tuple[Usage, ...]]:
        passages = tuple(_given(batch).values())
        claims = [{"claim": one.number, "text": one.claim.text} for one in batch]
        section = ModelSection(name="claims", text=as_data(claims))
        return await self._form.filled_in(
            context, (ASK,), (section,), passages=passages, grounding=fenced(passages)
        )


def _given(batch: Sequence[_Question]) -> Mapping[int, ModelPassage]:
    """Return the batch's passages by their numbers, each once."""
    return {passage.number: passage for one in batch for passage in one.passages}


def _judge(batch: Sequence[_Question], form: _Form, sources: Sources) -> int:
    """Give the claims their citations; returns how many were dropped."""
    given, kept, dropped = _given(batch), 0, 0
    claims = {one.number: one.claim for one in batch}
    for verdict in form.verdicts:
        if (claim := claims.pop(verdict.claim, None)) is None:
            continue  # another batch's, nobody's, or judged before
        for references, cited in (
            (verdict.supporting, claim.supporting),
            (verdict.contradicting, claim.contradicting),
        ):
            held = [one for ref in references if (one := _held(ref, given, sources)) is not None]
            cited.extend(held[:MOST_CITATIONS])
            kept, dropped = kept + len(held), dropped + len(references) - len(held)
    count_citations(supported=kept, unsupported=dropped)
    return dropped


def _held(
    reference: _Reference, given: Mapping[int, ModelPassage], sources: Sources
) -> Citation | None:
    """Return the reference as a citation; None if no passage of its number holds its words."""
    if reference.passage not in given:
        return None
    passage = sources.passages[reference.passage - 1]
    words = words_of(unescape(reference.quote), passage.text)  # it was given escaped
    return citation_of(reference.passage, passage, words[:TEXT_CHARACTERS]) if words else None
