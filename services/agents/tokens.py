"""How many tokens a call of a model reads, before anybody has counted them. Pure."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from math import ceil

from services.agents.ports import ModelRequest, ModelTool

ASCII_PER_TOKEN = 2.5
"""Characters; prose has about four to a token, code and numbers fewer."""
BYTES_PER_TOKEN = 1.5
"""Of other scripts in UTF-8, in which a character may be a token and more."""
PER_PART = 16
"""What stands around each message, tool or section."""
FOR_TOOLS = 600
"""What a provider tells the model by itself where there are tools."""


def estimated_tokens(request: ModelRequest) -> int:
    """Return about how many tokens the call reads, rather too many than too few."""
    return sum(estimated_parts(request).values())


def estimated_parts(request: ModelRequest) -> Mapping[str, int]:
    """Return the same by parts, named as people know them."""
    parts = Counter[str]({"the tools": FOR_TOOLS} if request.tools else {})
    for name, texts in _texts(request):
        parts[name] += sum(map(message_tokens, texts))
    return parts


def _texts(request: ModelRequest) -> Iterator[tuple[str, Iterable[str]]]:
    messages = [message.text for message in request.messages]
    yield "the instructions", [request.system]
    yield "the summary", [request.summary] if request.summary else []
    yield "the conversation", messages[:-1]
    yield "the question", messages[-1:]
    # A model is given the passages as text or one by one, never both.
    passages = [f"{passage.document_name} {passage.text}" for passage in request.passages]
    yield "the passages", [max(request.grounding, "\n".join(passages), key=len)]
    for section in request.sections:
        yield section.name, [f"<{section.name}>{section.text}</{section.name}>"]
    yield "the form", [json.dumps(request.schema)] if request.schema is not None else []
    yield "the tools", map(_told, request.tools)
    yield "what tools have brought", _rounds(request)


@lru_cache(maxsize=256)
def _told(tool: ModelTool) -> str:
    """Return what a model is told of a tool: the same for all turns."""
    return f"{tool.name} {tool.description} {json.dumps(tool.schema)}"


def _rounds(request: ModelRequest) -> Iterator[str]:
    for one in request.rounds:
        yield json.dumps(one.wait.carried, ensure_ascii=False, default=str)
        yield from (f"{call.name} {json.dumps(call.input)}" for call in one.wait.calls)
        yield from (result.text for result in one.results)


def message_tokens(text: str) -> int:
    """Return about how many tokens one message is, with what stands around it."""
    return _tokens(text) + PER_PART


def _tokens(text: str) -> int:
    size, ascii_size = len(text.encode()), len(text.encode("ascii", "ignore"))
    return ceil(ascii_size / ASCII_PER_TOKEN + (size - ascii_size) / BYTES_PER_TOKEN)
