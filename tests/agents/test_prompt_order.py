"""The order of what Claude reads: what stays the same comes first, and is cached."""

import json
from dataclasses import replace
from typing import Any

from services.agents.adapters.claude import ClaudeModel
from services.agents.ports import Author, ModelSection, ModelTool
from tests.agents.test_claude import emulator, events_of, model, request_for, said
from tests.emulators.anthropic import Emulator
from tests.emulators.anthropic_answers import texts_of

__all__ = ["emulator", "model"]


async def test_the_summary_comes_before_the_messages_and_what_neither_holds_is_counted(
    emulator: Emulator, model: ClaudeModel
) -> None:
    request = replace(request_for("And?"), summary='"They spoke."', left_out=3)
    answered = replace(request, messages=(said(Author.AGENT, "Yes."), *request.messages))
    asked = replace(request, messages=(said(Author.USER, "So?"), *answered.messages))
    before = ['<summary>\n"They spoke."\n</summary>', "<left_out>\n3\n</left_out>"]
    for given, first in ((request, ["And?"]), (answered, []), (asked, ["So?"])):
        emulator.forget()
        await events_of(model, given)
        messages = emulator.requests[0].body["messages"]
        assert (messages[0]["role"], texts_of(messages[0])) == ("user", [*before, *first])
        assert texts_of(messages[-1])[-1] == "And?"


async def test_what_is_before_the_question_stays_the_same_until_the_next_turn_and_is_cached(
    emulator: Emulator, model: ClaudeModel
) -> None:
    first = replace(
        request_for("Why?", said(Author.AGENT, "So."), "And?", grounding="<passages/>"),
        summary='"They spoke."',
        sections=(ModelSection(name="specifications", text="[1]"),),
        tools=(ModelTool(name="look", description="Looks.", schema={"type": "object"}),),
    )
    second = replace(
        first,
        messages=(*first.messages, said(Author.AGENT, "Because."), said(Author.USER, "Then?")),
        sections=(ModelSection(name="specifications", text="[1, 2]"),),
        grounding="<others/>",
    )
    for request in (first, second, request_for("Another session.")):
        await events_of(model, request)
    one, two, other = (cached_part(seen.body) for seen in emulator.requests)
    assert one == two[: len(one)]
    assert len(one) < len(two)
    # What an agent is told is the same in all sessions.
    assert other == one[len(first.tools) : len(first.tools) + 1]


def cached_part(body: Any) -> list[str]:
    """Return what the API reads, in its order, up to the last breakpoint."""
    messages = body["messages"]
    blocks = [("tool", one) for one in body.get("tools", ())]
    blocks += [("system", one) for one in body["system"]]
    blocks += [(message["role"], one) for message in messages for one in message["content"]]
    last = max(n for n, (_, block) in enumerate(blocks) if "cache_control" in block)
    plain = [
        (role, {name: value for name, value in block.items() if name != "cache_control"})
        for role, block in blocks[: last + 1]
    ]
    return [json.dumps(one) for one in plain]
