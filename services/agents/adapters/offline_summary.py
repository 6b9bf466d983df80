"""How the offline model sums up: it quotes what seems to matter, without understanding. Pure.

The same request always gives the same summary, and the summary says how it came about.
"""

import json
import re

from services.agents.ports import ModelRequest

OFFLINE = "Quoted by the offline model, which does not understand what it quotes:"
MOST_CHARACTERS = 3500
LINE_CHARACTERS = 200
_MARK = "- "
_FACT = re.compile(
    r"\d|\b(my|name|called|is|are|was|must|should|want|need|prefer|like|decided?|never|always|"
    r"remember)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def summed_up(request: ModelRequest) -> str:
    """Return the summary before and what was said since, as lines; of too many the best."""
    sections = {section.name: json.loads(section.text) for section in request.sections}
    lines = lines_of(json.dumps(sections.get("summary", "")))
    for message in sections.get("messages", ()):
        lines += _quoted(message["author"], message["text"])
    return "\n".join([OFFLINE, *_fitting(list(dict.fromkeys(lines)))])


def lines_of(summary: str) -> list[str]:
    """Return the lines of a summary, given as JSON; none of an empty one."""
    text = json.loads(summary) if summary else ""
    return [line for line in text.splitlines() if line.startswith(_MARK)]


def _quoted(author: str, text: str) -> list[str]:
    sentences = [" ".join(part.split()) for part in _SENTENCE_END.split(text)]
    facts = [part for part in sentences if _FACT.search(part) and not part.endswith("?")]
    if author != "user":
        facts = facts[:1]  # what it said itself it quoted from elsewhere
    return [f"{_MARK}{author}: {part[:LINE_CHARACTERS]}" for part in facts]


def _fitting(lines: list[str]) -> list[str]:
    """Leave out what the model itself said first, then the oldest, until the rest fits."""
    room = MOST_CHARACTERS - len(OFFLINE)
    mine = [line for line in lines if not line.startswith(f"{_MARK}user:")]
    for line in [*mine, *lines]:
        if sum(len(one) + 1 for one in lines) <= room:
            break
        if line in lines:
            lines.remove(line)
    return lines
