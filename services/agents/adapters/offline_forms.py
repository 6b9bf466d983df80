"""How the offline model reads, compares and asks: by words, without understanding. Pure.

It is honest about that in what it says, and the same request always gives the same answer.
"""

import json
import re
from collections.abc import Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any

from services.agents.adapters import offline_support
from services.agents.adapters.offline_code import plan_of_files
from services.agents.adapters.offline_sections import listed
from services.agents.ports import ModelRequest

MOST_SPECIFICATIONS = 20
VALUE_CHARACTERS = 300
CONFIDENCE = 0.5
"""Of what words suggest and nobody understood."""

_SETTLES = re.compile(
    r"\b(must|should|shall|needs?|has to|have to|want|wants|require[sd]?|only|never|always|"
    r"at most|at least|no more than|will be|use|uses|using|prefer|prefers|instead)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_NEGATION = re.compile(r"\b(no|not|never|without|none)\b|n't\b", re.IGNORECASE)
_NAME = re.compile(r"\b[A-Z][A-Za-z0-9+#.]*[A-Za-z0-9+#]\b")
_WORD = re.compile(r"\w+")

TOPICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "purpose": (
            r"\b(for|so that|goal|purpose|helps?)\b",
            "What is it for: what can somebody do with it?",
        ),
        "users": (
            r"\b(users?|people|customers?|team|students?|children)\b",
            "Who will use it, and how many of them at once?",
        ),
        "platform": (
            r"\b(web|browser|mobile|phone|desktop|linux|windows|mac\w*|server|cloud|offline)\b",
            "Where is it to run?",
        ),
        "language": (
            r"\b(python|rust|java|javascript|typescript|go|ruby|kotlin)\b",
            "What is it to be written in, and why in that?",
        ),
        "storage": (
            r"\b(database|postgres\w*|sqlite|mysql|redis|files?|stores?|saved?)\b",
            "What has to be kept, where, and for how long?",
        ),
        "performance": (
            r"\b(fast|slow|seconds?|ms|milliseconds?|latency|quick\w*)\b",
            "How fast must it be, and what happens if it is slower?",
        ),
        "security": (
            r"\b(passwords?|login|encrypt\w*|private|secret|secure)\b",
            "What must nobody else see or do?",
        ),
        "cost": (
            r"\b(cheap|cost\w*|budget|price|euros?|dollars?|free)\b",
            "What may it cost, to make and to run?",
        ),
    }
)
"""Topic to the words that show it, and the question that asks for it. First match wins."""
_ORDER = ("language", "storage", "performance", "security", "cost", "users", "platform", "purpose")
"""The more special topics first: most sentences also say what something is for."""
OFFLINE = "I am the offline model and ask from a list."
LAST_QUESTION = "What have we not talked about that would change what you build?"


def filled_form(request: ModelRequest) -> str | None:
    """Return the answer to a step that this model can take; None for one that it cannot."""
    fill = {
        "context": _specifications,
        "conflict": _conflicts,
        "citation_claims": offline_support.claims,
        "citation_verdicts": offline_support.verdicts,
        "code_plan": plan_of_files,
    }.get(request.step)
    return None if fill is None else json.dumps(fill(request), ensure_ascii=False)


def next_question(request: ModelRequest) -> str:
    """Return a question: about an open conflict, else about what was not talked about."""
    for conflict in listed(request, "conflicts"):
        return (
            f"{OFFLINE} You said “{conflict['first']}” and “{conflict['second']}”. "
            "Which of the two holds?"
        )
    settled = {one["category"] for one in listed(request, "specifications")}
    asked = "\n".join(listed(request, "asked"))
    for topic, (_, question) in TOPICS.items():
        if topic not in settled and question not in asked:
            return f"{OFFLINE} {question}"
    return f"{OFFLINE} {LAST_QUESTION}"


def _specifications(request: ModelRequest) -> dict[str, Any]:
    known = {_same(one["value"]) for one in listed(request, "specifications")}
    said = (part.strip() for part in _SENTENCE_END.split(request.messages[-1].text))
    settled = [part for part in said if _SETTLES.search(part) and not part.endswith("?")]
    found = [
        {
            "category": _topic(part),
            "key": _topic(part),
            "value": part[:VALUE_CHARACTERS],
            "confidence": CONFIDENCE,
        }
        for part in dict.fromkeys(settled)
        if _same(part) not in known
    ]
    return {"specifications": found[:MOST_SPECIFICATIONS]}


def _topic(sentence: str) -> str:
    for topic in _ORDER:
        if re.search(TOPICS[topic][0], sentence, re.IGNORECASE):
            return topic
    return "other"


def _conflicts(request: ModelRequest) -> dict[str, Any]:
    found = [
        {
            "first": first["id"],
            "second": second["id"],
            "type": "contradiction",
            "severity": "medium",
            "explanation": f"Both are about {first['key']}, and they differ in {difference}.",
            "suggestion": "Say which of the two holds, or what holds instead.",
        }
        for first, second in combinations(listed(request, "specifications"), 2)
        if (first["category"], first["key"]) == (second["category"], second["key"])
        and (difference := _difference(first["value"], second["value"]))
    ]
    return {"conflicts": found[:MOST_SPECIFICATIONS]}


def _difference(one: str, other: str) -> str:
    """Return in what two sentences about one thing differ, if words can tell; else nothing."""
    if bool(_NEGATION.search(one)) != bool(_NEGATION.search(other)):
        return "that one of them says no"
    for pattern, what in ((_NUMBER, "a number"), (_NAME, "a name")):
        mine, theirs = _found(pattern, one), _found(pattern, other)
        if mine and theirs and not mine & theirs:
            return what
    return ""


def _found(pattern: re.Pattern[str], text: str) -> set[str]:
    # A sentence's first word is written large whatever it is.
    first = _WORD.match(text)
    start = first.end() if first and pattern is _NAME and len(text.split()) > 1 else 0
    return set(pattern.findall(text, start))


def _same(value: str) -> str:
    return " ".join(_WORD.findall(value.casefold()))
