"""What parsing takes and gives. Imports nothing heavy: the child processes load it."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Form(StrEnum):
    """What the bytes of a document are."""

    TEXT = "TEXT"
    MARKDOWN = "MARKDOWN"
    HTML = "HTML"
    PDF = "PDF"
    DOCX = "DOCX"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a document may be; what is larger is refused with the number."""

    pages: int
    text_bytes: int
    """Of the text, in UTF-8."""
    unpacked_bytes: int
    """Of the packed parts of a DOCX that are read."""


class Unreadable(Exception):
    """The bytes are no document of their form, or too large a one.

    The problem completes a sentence that begins with the document, or with its *page*, from 1.
    """

    def __init__(self, problem: str, *, page: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.page = page


class Reader(Protocol):
    """Reads one form; raises Unreadable."""

    def __call__(self, data: bytes, limits: Limits) -> Iterator[str]:
        """Yield the text of each page; all of it at once if the form has no pages."""
        ...
