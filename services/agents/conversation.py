"""What a turn is given of its conversation: nothing is missing between summary and messages."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from maieutic.session.v1.turn_work_service_pb2 import TurnClaim
from maieutic.v1.message_pb2 import AUTHOR_AGENT, Message
from services.agents.errors import ConversationUnreadable
from services.agents.ports import AgentContext, Author, ModelMessage, ReadAfter

_LOG = logging.getLogger(__name__)

PAGE_MESSAGES = 50
MOST_BYTES = 1024 * 1024
"""Of messages that are read besides those of the claim; hardly a model takes more."""


def since_summary(claim: TurnClaim) -> tuple[ModelMessage, ...]:
    """Return the claim's messages that the summary does not cover."""
    covered = claim.findings.summary.through_position
    return _told(one for one in claim.window if not covered or one.position > covered)


async def with_all_since_summary(context: AgentContext, claim: TurnClaim) -> AgentContext:
    """Add what was said between the summary and the claim's messages, as while a summary is late.

    What cannot be read, or is too much, is left out from its oldest part on, and counted.
    """
    covered = claim.findings.summary.through_position
    first = claim.window[0].position if claim.window else 0
    missing: list[Message] = []
    read_from, size = first, 0
    try:
        while read_from > covered + 1 and size < MOST_BYTES:
            start = max(covered, read_from - 1 - PAGE_MESSAGES)
            page = await _between(context.read_after, start, read_from)
            missing = [*page, *missing]
            read_from, size = start + 1, size + sum(message.ByteSize() for message in page)
    except ConversationUnreadable:
        _LOG.warning("turn %s: goes on without a part of its conversation", context.turn_id)
    messages = (*_told(missing), *context.messages)
    return replace(context, messages=messages, left_out=max(0, read_from - 1 - covered))


async def _between(read_after: ReadAfter, start: int, end: int) -> list[Message]:
    """Return what was said after the position *start* and before *end*."""
    found: list[Message] = []
    while start < end - 1:
        page = [one for one in await read_after(start, PAGE_MESSAGES) if one.position < end]
        if not page:
            break
        found += page
        start = page[-1].position
    return found


def _told(messages: Iterable[Message]) -> tuple[ModelMessage, ...]:
    return tuple(
        ModelMessage(
            author=Author.AGENT if message.author == AUTHOR_AGENT else Author.USER,
            text=message.text,
        )
        for message in messages
    )
