"""What the offline model takes for an order: by the first words of a message. Pure."""

import re

from services.agents.agents import handing_on
from services.agents.ports import ModelRequest, ModelWait, ToolCall

_POLITE = (
    r"^\W*(?:please\s+|now\s+|then\s+|let'?s\s+|(?:can|could|would|will)\s+you\s+(?:please\s+)?)*"
)
_CODE = re.compile(
    rf"{_POLITE}(?:generate|write|create|build|implement|produce|make)\b"
    r"(?:\s+(?:it|this|that)\b|[^.?!\n]*\b(?:code|program|files|app|application|implementation"
    r"|prototype|project)\b)",
    re.IGNORECASE,
)
_SETTLING = re.compile(
    r"^\W*(?:(?:i|we)\s+(?:also\s+)?(?:want|need|require|would\s+like|prefer)\b"
    r"(?!\s+(?:help|to\s+(?:know|ask|understand|see|learn|hear|find|talk|discuss)))"
    r"|(?:it|the\s+\w+)\s+(?:must|shall|has\s+to|needs\s+to)\b)",
    re.IGNORECASE,
)
_SEARCHING = re.compile(rf"{_POLITE}(?:search|find|look\s+(?:up|for))\b", re.IGNORECASE)

_DONE = {
    handing_on.CODE: "I have handed this on: files are written beside our conversation.",
    handing_on.SPECIFICATIONS: "I have handed this on: what you want is put down beside our "
    "conversation.",
}


def order_in(request: ModelRequest) -> ModelWait | None:
    """Return the call of the tool that the message asks for; None if it asks for none."""
    name, text = "", request.messages[-1].text.strip()
    if _CODE.search(text):
        name = handing_on.CODE
    elif _SETTLING.search(text) and not text.endswith("?"):
        name = handing_on.SPECIFICATIONS
    offered = request.may_call and name in {tool.name for tool in request.tools}
    if not offered or request.rounds:
        return None
    return ModelWait(calls=(ToolCall(call_id="offline-1", name=name, input={}),))


def order_carried_out(request: ModelRequest) -> str:
    """Return what to say of the call that was made; empty if there was none."""
    if not request.rounds:
        return ""
    (call,), (result,) = request.rounds[-1].wait.calls, request.rounds[-1].results
    return f"This could not be handed on: {result.text}" if result.failed else _DONE[call.name]


def asks_for_passages(text: str) -> bool:
    """Whether the message asks for passages rather than for an answer."""
    return bool(_SEARCHING.search(text))
