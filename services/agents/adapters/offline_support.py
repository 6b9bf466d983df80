"""How the offline model finds claims and compares them with passages: by shared words. Pure.

It understands nothing: a sentence that shares most of a claim's words supports it, unless the two
have other numbers or only one of them says no; then it contradicts it.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from services.agents.adapters.offline_words import sentences, terms
from services.agents.ports import ModelPassage, ModelRequest

MOST_CLAIMS = 30
MOST_CITATIONS = 3
LEAST_TERMS = 2
"""That say something: fewer are no claim."""
SAME_MATTER = 0.6
"""Of a claim's words that a sentence about the same matter has, numbers aside."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATION = re.compile(r"\b(no|not|never|without|none|cannot)\b|n't\b", re.IGNORECASE)
_MARKS = re.compile(r"\s*\[[\d,\s]+\]|[“”„«»\"]")
_ABOUT_ITSELF = re.compile(r"^I am the offline model\b|^The documents say:?$")


def claims(request: ModelRequest) -> dict[str, Any]:
    """Return the answer's sentences that say something."""
    said = {_MARKS.sub("", one).strip(): one for one in sentences(_section(request, "answer"))}
    found = [{"text": text, "quote": one} for text, one in said.items() if _claims_something(text)]
    return {"claims": found[:MOST_CLAIMS]}


def verdicts(request: ModelRequest) -> dict[str, Any]:
    """Return for each claim the sentences that share its words, and in what they differ."""
    return {
        "verdicts": [
            {"claim": one["claim"], **_compared(one["text"], request.passages)}
            for one in _section(request, "claims")
        ]
    }


def _section(request: ModelRequest, name: str) -> Any:
    return json.loads(next(one.text for one in request.sections if one.name == name))


def _claims_something(sentence: str) -> bool:
    if sentence.endswith("?") or _ABOUT_ITSELF.search(sentence):
        return False
    return len(terms(sentence)) >= LEAST_TERMS


def _compared(claim: str, passages: Sequence[ModelPassage]) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"supporting": [], "contradicting": []}
    for passage in passages:
        for sentence in sentences(passage.text):
            if side := _side(claim, sentence):
                found[side].append({"passage": passage.number, "quote": sentence})
    return {side: quotes[:MOST_CITATIONS] for side, quotes in found.items()}


def _side(claim: str, sentence: str) -> str:
    """Return on which side of the claim the sentence is; empty if on none."""
    wanted = terms(_NUMBER.sub("", claim))
    shared = wanted & terms(sentence)
    if not wanted or len(shared) < SAME_MATTER * len(wanted):
        return ""
    mine, theirs = set(_NUMBER.findall(claim)), set(_NUMBER.findall(sentence))
    if bool(_NEGATION.search(claim)) != bool(_NEGATION.search(sentence)):
        return "contradicting"
    if mine <= theirs:
        return "supporting"
    return "contradicting" if theirs and not mine & theirs else ""
