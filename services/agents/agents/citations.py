"""Passages in and out of an answer: fenced for the prompt, cited by number, checked at the end."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape, unescape

from maieutic.v1.document_service_pb2 import Passage
from maieutic.v1.message_pb2 import Citation
from services.agents.ports import ModelPassage
from services.runtime import names, telemetry

QUOTE_CHARACTERS = 1000
LEAST_QUOTED_WORDS = 4
"""Of a quotation that is checked: fewer words in quotation marks may be a name, or irony."""

_NUMBERS = r"\[\d{1,3}(?:\s*,\s*\d{1,3})*\]"
_CITING = re.compile(
    rf'(?:[“„«"](?P<quote>[^“”„«»"\n]+)[”“»"][.,;:!?]?\s*)?(?P<marks>{_NUMBERS}(?:\s?{_NUMBERS})*)'
)
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"\w+")


class Sources:
    """The passages that were found for one answer, each with the number that it keeps."""

    def __init__(self) -> None:
        self._passages: list[Passage] = []
        self._numbers: dict[tuple[str, str, str], int] = {}

    @property
    def passages(self) -> Sequence[Passage]:
        """Return those found so far; the first one is number 1."""
        return self._passages

    def add(self, passages: Sequence[Passage]) -> tuple[ModelPassage, ...]:
        """Number what was found; what was found before keeps its number."""
        return tuple(
            ModelPassage(
                number=self._number(passage),
                document_name=passage.document_name,
                text=passage.text,
            )
            for passage in passages
        )

    def _number(self, passage: Passage) -> int:
        key = (passage.document_id, passage.chunk_id, passage.text)
        if key not in self._numbers:
            self._passages.append(passage)
            self._numbers[key] = len(self._passages)
        return self._numbers[key]


def fenced(passages: Sequence[ModelPassage]) -> str:
    """Return the passages as one text in which none can pretend to end its element."""
    return "\n".join(
        f'<passage number="{p.number}" document="{escape(p.document_name)}">\n'
        f"{escape(p.text, quote=False)}\n</passage>"
        for p in passages
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cited:
    """What an answer refers to."""

    citations: tuple[Citation, ...]
    """By number, each once."""
    unsupported: int
    """References that no passage supports; they are dropped."""


def cited(text: str, passages: Sequence[Passage]) -> Cited:
    """Return the passages that the text really refers to.

    A reference is unsupported if there is no passage of its number, or if it stands behind a
    quotation that the passage does not hold, whatever its case and punctuation.
    """
    references = list(_references(text))
    supported = {number for number, quote in references if _supports(passages, number, quote)}
    dropped = sum(not _supports(passages, number, quote) for number, quote in references)
    return Cited(
        citations=tuple(
            citation_of(number, passages[number - 1], passages[number - 1].text)
            for number in sorted(supported)
        ),
        unsupported=dropped,
    )


def _references(text: str) -> Iterator[tuple[int, str]]:
    """Yield each number with the quotation before it, if there is one."""
    for citing in _CITING.finditer(text):
        for number in _NUMBER.findall(citing["marks"]):
            yield int(number), citing["quote"] or ""


def _supports(passages: Sequence[Passage], number: int, quote: str) -> bool:
    if not 1 <= number <= len(passages):
        return False
    named = len(_WORD.findall(quote)) < LEAST_QUOTED_WORDS
    return named or bool(words_of(unescape(quote), passages[number - 1].text))


def words_of(quote: str, text: str) -> str:
    """Return the quotation as it stands in the text, whatever its case and punctuation.

    Empty if the text does not hold it, or if there are no words in it.
    """
    wanted = " ".join(_WORD.findall(quote.casefold()))
    words = list(_WORD.finditer(text))
    joined = " ".join(word[0].casefold() for word in words)
    start = joined.find(wanted) if wanted else -1
    while start >= 0 and not _whole(joined, start, start + len(wanted)):
        start = joined.find(wanted, start + 1)
    if start < 0:
        return ""
    end = start + len(wanted)
    return text[_place(words, joined, start) : _place(words, joined, end, at_end=True)]


def _whole(joined: str, start: int, end: int) -> bool:
    """Whether what is found begins and ends with words.

    Scripts that do not set words apart have no cases: there a part of a run of letters will do.
    """
    return not (_splits_word(joined, start) or _splits_word(joined, end))


def _splits_word(joined: str, place: int) -> bool:
    around = joined[place - 1 : place + 1] if place else ""
    return len(around) > 1 and all(
        char.isdecimal() or char.upper() != char.lower() for char in around
    )


def _place(words: Sequence[re.Match[str]], joined: str, place: int, *, at_end: bool = False) -> int:
    """Return where in the text a place in its joined words is."""
    word = words[joined.count(" ", 0, place)]
    within = place - joined.rfind(" ", 0, place) - 1
    if len(word[0]) == len(word[0].casefold()):
        return word.start() + within
    return word.end() if at_end else word.start()  # letters were spelt out: the whole word


def citation_of(number: int, passage: Passage, quote: str) -> Citation:
    """Return a reference to the passage, by the number that it has."""
    return Citation(
        number=number,
        document_id=passage.document_id,
        document_name=passage.document_name,
        chunk_id=passage.chunk_id,
        chunk_position=passage.position,
        quote=quote[:QUOTE_CHARACTERS],
        score=passage.score,
    )


def count_citations(*, supported: int, unsupported: int) -> None:
    """Count what an agent's model has cited, by whether a passage holds it."""
    counter = telemetry.current().counter(names.CITATIONS)
    for outcome, count in (("supported", supported), ("unsupported", unsupported)):
        if count:
            counter.add(count, {names.CITATION_OUTCOME: outcome})
