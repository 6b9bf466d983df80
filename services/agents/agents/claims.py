"""The citation agent's first step: what an answer says is so."""

from collections.abc import AsyncGenerator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from maieutic.v1.support_pb2 import Claim, SupportReport
from maieutic.v1.turn_service_pb2 import Findings, Usage
from services.agents.agents.asking import Form, as_data
from services.agents.agents.citations import words_of
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Model,
    ModelMessage,
    ModelSection,
    Notice,
)
from services.agents.prompts import Prompt

STEP = "citation_claims"
MOST_CLAIMS = 30
MOST_LISTED = 100
"""By a model that does not keep to the most: the first ones are taken."""
TEXT_CHARACTERS = 250
"""Of a claim's text and of each quotation, so that a report fits the messages it travels in."""
READING = Notice(code="READING_ANSWER", text="Reading what the answer claims")
ASK = ModelMessage(author=Author.USER, text="Which claims does the answer make?")

Text = Annotated[str, Field(min_length=1, max_length=2000)]


class _Claim(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Text
    quote: Text


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    claims: Annotated[list[_Claim], Field(max_length=MOST_LISTED)]


class ClaimsAgent:
    """Lists claims; says nothing to the user."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self._form = Form(model, prompt, STEP, _Form)

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """List what the turn's text claims, in a report without verdicts. Raises ModelMalformed.

        A claim whose quotation is not in the text is left out.
        """
        yield READING
        listed, usage = list[_Claim](), tuple[Usage, ...]()
        if context.text.strip():
            answer = ModelSection(name="answer", text=as_data(context.text))
            form, usage = await self._form.filled_in(context, (ASK,), (answer,))
            listed = form.claims
        claims = [claim for one in listed if (claim := _claim(one, context.text)).quote]
        report = SupportReport(
            collection=context.collection,
            claims=claims[:MOST_CLAIMS],
            claims_left_out=len(listed) - len(claims[:MOST_CLAIMS]),
        )
        yield Answer(text="", usage=usage, findings=Findings(support=report))


def _claim(listed: _Claim, answer: str) -> Claim:
    return Claim(
        text=listed.text[:TEXT_CHARACTERS], quote=words_of(listed.quote, answer)[:TEXT_CHARACTERS]
    )
