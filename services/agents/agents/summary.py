"""The agent that sums up the older part of a conversation, so that nothing of it is forgotten."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from maieutic.v1.message_pb2 import Message
from maieutic.v1.summary_pb2 import Summary
from maieutic.v1.turn_service_pb2 import Findings, Usage
from services.agents.agents.asking import as_data, asked, said_by
from services.agents.errors import ConversationUnreadable, ModelError, ModelMalformed
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Model,
    ModelMessage,
    ModelRequest,
    ModelSection,
)
from services.agents.prompts import Prompt

STEP = "summary"
MOST_CHARACTERS = 4000
PAGE_MESSAGES = 50
PART_CHARACTERS = 60_000
"""Of what was said, in one call; a longer message is read in parts."""
MOST_CALLS = 10
"""In one turn: enough for the longest answer there may be. If it is not enough for all that was
said, another turn goes on from there."""
WRITE = ModelMessage(author=Author.USER, text="Write the new summary.")


@dataclass(slots=True, kw_only=True)
class _Part:
    """What one call is to add to the summary."""

    said: list[dict[str, str]] = field(default_factory=list)
    size: int = 0
    ended: list[Message] = field(default_factory=list)
    """The messages that are read to their end with this part."""

    def takes(self, text: str) -> bool:
        """Whether there is room for some more text."""
        return not self.said or self.size + len(text) <= PART_CHARACTERS

    def add(self, message: Message, text: str) -> None:
        """Add a piece of a message."""
        self.said.append({"author": said_by(message), "text": text})
        self.size += len(text)


class SummaryAgent:
    """Writes a summary from the one before and what was said since; nothing to the user."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self._model = model
        self._prompt = prompt

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Sum up, oldest part first, in calls of bounded size.

        What is done by the time something goes wrong is kept; raises ModelError and
        ConversationUnreadable if that is nothing.
        """
        summary, usage = Summary(), list[Usage]()
        summary.CopyFrom(context.findings.summary)
        parts = _parts(context, summary.through_position)
        try:
            async with aclosing(parts):
                async for part in parts:
                    text, used = await self._written(context, summary.text, part)
                    usage += used
                    _extend(summary, text, part.ended)
                    if len(usage) >= MOST_CALLS:
                        break
        except (ModelError, ConversationUnreadable):
            if not usage:
                raise
        yield Answer(text="", usage=tuple(usage), findings=Findings(summary=summary))

    async def _written(
        self, context: AgentContext, before: str, part: _Part
    ) -> tuple[str, tuple[Usage, ...]]:
        request = ModelRequest(
            turn_id=context.turn_id,
            step=STEP,
            system=self._prompt.text,
            messages=(WRITE,),
            sections=(
                ModelSection(name="summary", text=as_data(before)),
                ModelSection(name="messages", text=as_data(part.said)),
            ),
        )
        said = await asked(self._model, request, prompt=self._prompt.label)
        if not (text := said.text.strip()):
            raise ModelMalformed(["the summary is empty"])
        return text[:MOST_CHARACTERS], said.usage


def _extend(summary: Summary, text: str, ended: list[Message]) -> None:
    summary.text = text
    if ended:
        summary.through_position = ended[-1].position
        summary.through_message_id = ended[-1].message_id
        summary.message_count += len(ended)


async def _parts(context: AgentContext, after: int) -> AsyncGenerator[_Part, None]:
    part = _Part()
    async for message in _messages(context, after):
        for start in range(0, max(1, len(message.text)), PART_CHARACTERS):
            text = message.text[start : start + PART_CHARACTERS]
            if not part.takes(text):
                yield part
                part = _Part()
            part.add(message, text)
        part.ended.append(message)
    if part.said:
        yield part


async def _messages(context: AgentContext, after: int) -> AsyncIterator[Message]:
    while after < context.summary_through:
        page = await context.read_after(after, PAGE_MESSAGES)
        for message in page:
            if message.position > context.summary_through:
                return
            yield message
        if not page:
            return
        after = page[-1].position
