"""How many tokens a call of a model reads, before anybody has counted them. Pure."""

import json
from collections.abc import Iterator
from math import ceil

from services.agents.ports import ModelRequest

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
    parts = [_tokens(text) + PER_PART for text in _texts(request)]
    return sum(parts) + (FOR_TOOLS if request.tools else 0)


def _texts(request: ModelRequest) -> Iterator[str]:
    yield request.system
    yield request.summary
    yield from (message.text for message in request.messages)
    # A model is given the passages as text or one by one, never both.
    passages = [f"{passage.document_name} {passage.text}" for passage in request.passages]
    yield max(request.grounding, "\n".join(passages), key=len)
    yield from (f"<{section.name}>{section.text}</{section.name}>" for section in request.sections)
    if request.schema is not None:
        yield json.dumps(request.schema)
    for tool in request.tools:
        yield f"{tool.name} {tool.description} {json.dumps(tool.schema)}"
    for one in request.rounds:
        yield json.dumps(one.wait.carried, ensure_ascii=False, default=str)
        yield from (f"{call.name} {json.dumps(call.input)}" for call in one.wait.calls)
        yield from (result.text for result in one.results)


def _tokens(text: str) -> int:
    size = len(text.encode())
    ascii_size = size if text.isascii() else sum(character.isascii() for character in text)
    return ceil(ascii_size / ASCII_PER_TOKEN + (size - ascii_size) / BYTES_PER_TOKEN)
