"""How well searches find what labelled questions ask for."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from maieutic.v1.document_service_pb2 import Passage

LOOKED_AT = 10
"""Passages of an answer that count."""


class BadQuestions(Exception):
    """A line is no labelled question; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, and where its answer stands."""

    question: str
    document: str
    """The name of the document."""
    passage: str
    """Words of the text that answers; differences in white space do not count."""

    def answered_by(self, document: str, text: str) -> bool:
        """Tell whether this text of that document holds the answer."""
        return document == self.document and _even(self.passage) in _even(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What was found, from the place of each question's first right passage."""

    places: Sequence[int | None]
    """From 1; None for a question whose passage was not found."""

    def recall(self, most: int) -> float:
        """Return the share of questions that are answered by the first so many passages."""
        found = sum(1 for place in self.places if place and place <= most)
        return found / len(self.places)

    @property
    def mrr(self) -> float:
        """The mean reciprocal rank: the mean of 1 / place, 0 for what was not found."""
        return sum(1 / place for place in self.places if place) / len(self.places)


def read_questions(lines: Iterable[str]) -> list[Question]:
    """Read JSON lines of {"question", "document", "passage"}; raises BadQuestions."""
    found = [_question(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise BadQuestions("there are no questions in it")
    return found


def place_of(question: Question, passages: Iterable[Passage]) -> int | None:
    """Return the place, from 1, of the first passage that answers; None if none does."""
    answers = (question.answered_by(one.document_name, one.text) for one in passages)
    return next((place for place, right in enumerate(answers, start=1) if right), None)


def _question(number: int, line: str) -> Question:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadQuestions(f"line {number} is no JSON: {error}") from error
    fields = Question.__dataclass_fields__
    if not (isinstance(value, dict) and set(value) == set(fields)):
        raise BadQuestions(f"line {number} is no object of {', '.join(fields)}")
    if not all(isinstance(text, str) and text.strip() for text in value.values()):
        raise BadQuestions(f"line {number} has a field that is no text")
    return Question(**value)


def _even(text: str) -> str:
    return " ".join(text.split())
