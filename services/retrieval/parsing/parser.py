"""Documents of every format to normalised text."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Self

from services.retrieval.errors import BadDocument
from services.retrieval.model import Content, content_of, normalised
from services.retrieval.parsing.model import Form, Limits, Unreadable
from services.retrieval.parsing.normal import normal_form
from services.retrieval.parsing.pool import ParserPool
from services.retrieval.parsing.sniffing import check_form
from services.retrieval.settings import ParsingOptions

PAGE_BREAK = "\n\n"
AS_IT_IS = frozenset({Form.TEXT, Form.MARKDOWN})
"""The rest is parsed in a process of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A document's text, and where its pages begin."""

    content: Content
    pages: tuple[int, ...]
    """Offset in the text, in characters, for each page; none if the form has no pages."""

    def page_at(self, offset: int) -> int | None:
        """Return the number of the page, from 1, that has this character of the text."""
        return bisect_right(self.pages, offset) or None


class Parser:
    """Parses documents that nobody vouches for."""

    def __init__(self, pool: ParserPool, options: ParsingOptions) -> None:
        self._pool = pool
        self._file_bytes = options.file_bytes
        self._limits = Limits(
            pages=options.pages,
            text_bytes=options.text_bytes,
            unpacked_bytes=options.unpacked_bytes,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, options: ParsingOptions) -> AsyncIterator[Self]:
        """Parse during the block."""
        async with ParserPool.open(
            processes=options.processes, memory=options.memory, seconds=options.seconds
        ) as pool:
            yield cls(pool, options)

    async def admit(self, data: bytes, *, form: Form, name: str) -> bytes:
        """Return the bytes as they are to be kept: text in its normal form, others as they are.

        Raises BadDocument, naming the document, for what is not even worth keeping: too large, not
        of that form, or no text. Whether the rest can be read, only parsing tells.
        """
        if form in AS_IT_IS:
            return (await self.parse(data, form=form, name=name)).content.data
        with _named(name):
            self._check(data, form)
        return data

    async def parse(self, data: bytes, *, form: Form, name: str) -> Parsed:
        """Return the document's text.

        Raises BadDocument, naming the document and its page, if it is broken, encrypted, too large
        or not of that form; and ParserUnavailable.
        """
        with _named(name):
            return await self._parsed(data, form)

    def _check(self, data: bytes, form: Form) -> None:
        most = self._limits.text_bytes if form in AS_IT_IS else self._file_bytes
        if len(data) > most:
            raise Unreadable(f"is larger than {most} bytes: split it")
        check_form(data, form)

    async def _parsed(self, data: bytes, form: Form) -> Parsed:
        self._check(data, form)
        if form in AS_IT_IS:
            return Parsed(content=await asyncio.to_thread(normalised, data), pages=())
        pages = await self._pool.pages(data, form, self._limits)
        return await asyncio.to_thread(_joined, pages, paged=form is Form.PDF)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of which document it is that something cannot be read."""
    try:
        yield
    except Unreadable as error:
        place = f"{name!r}" if error.page is None else f"page {error.page} of {name!r}"
        raise BadDocument("content", f"{place} {error.problem}") from error


def _joined(pages: Sequence[str], *, paged: bool) -> Parsed:
    texts: list[str] = []
    starts: list[int] = []
    start = 0
    for number, page in enumerate(pages, start=1):
        texts.append(_normal_page(page, number if paged else None))
        starts.append(start)
        start += len(texts[-1]) + len(PAGE_BREAK)
    content = content_of(PAGE_BREAK.join(texts))
    return Parsed(content=content, pages=tuple(starts) if paged else ())


def _normal_page(page: str, number: int | None) -> str:
    try:
        return normal_form(page)
    except Unreadable as error:
        raise Unreadable(error.problem, page=number) from error
