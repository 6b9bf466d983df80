"""Passages in and out of an answer: fenced for the prompt, cited by number."""

import re
from collections.abc import Sequence
from html import escape

from maieutic.v1.document_service_pb2 import Passage
from maieutic.v1.message_pb2 import Citation
from services.agents.ports import ModelPassage

QUOTE_CHARACTERS = 1000

_MARK = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


def numbered(passages: Sequence[Passage]) -> tuple[ModelPassage, ...]:
    """Give each passage the number by which the answer may cite it, from 1."""
    return tuple(
        ModelPassage(number=number, document_name=passage.document_name, text=passage.text)
        for number, passage in enumerate(passages, start=1)
    )


def fenced(passages: Sequence[ModelPassage]) -> str:
    """Return the passages as one text in which none can pretend to end its element."""
    return "\n".join(
        f'<passage number="{p.number}" document="{escape(p.document_name)}">\n'
        f"{escape(p.text, quote=False)}\n</passage>"
        for p in passages
    )


def cited(text: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """Return the passages that the text really refers to, by number; other marks are dropped."""
    marks = (mark for group in _MARK.findall(text) for mark in group.split(","))
    numbers = sorted({int(mark) for mark in marks})
    return tuple(
        _citation(number, passages[number - 1])
        for number in numbers
        if 1 <= number <= len(passages)
    )


def _citation(number: int, passage: Passage) -> Citation:
    return Citation(
        number=number,
        document_id=passage.document_id,
        document_name=passage.document_name,
        chunk_id=passage.chunk_id,
        chunk_position=passage.position,
        quote=passage.text[:QUOTE_CHARACTERS],
        score=passage.score,
    )
