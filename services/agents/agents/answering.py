"""What a model says, as the answer of a turn."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from maieutic.v1.turn_service_pb2 import Usage
from services.agents.agents.citations import Sources, cited, count_citations
from services.agents.ports import AgentEvent, Answer, Delta, Notice


async def answered(
    asking: AsyncGenerator[Delta | Notice | Usage, None], sources: Sources
) -> AsyncGenerator[AgentEvent, None]:
    """Pass on what a loop says; then the answer, with those citations that *sources* support."""
    text, usage = list[str](), list[Usage]()
    async with aclosing(asking) as events:
        async for event in events:
            if isinstance(event, Usage):
                usage.append(event)
                continue
            if isinstance(event, Delta):
                text.append(event.text)
            yield event
    whole = "".join(text)
    checked = cited(whole, sources.passages)
    count_citations(supported=len(checked.citations), unsupported=checked.unsupported)
    yield Answer(text=whole, citations=checked.citations, usage=tuple(usage))
