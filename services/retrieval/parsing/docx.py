"""DOCX: the parts of its ZIP archive that hold text, by lxml.

The parser tells of elements one after another and builds no tree, so a document of any size takes
the memory of its text.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Protocol

from lxml import etree

from services.retrieval.parsing.lines import Lines
from services.retrieval.parsing.model import Limits, Unreadable

MAIN = re.compile(r"word/document\d*\.xml")
STYLES = re.compile(r"word/styles\d*\.xml")
NOTES = re.compile(r"word/(?:footnotes|endnotes)\d*\.xml")
WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
"""For old programs: what it holds stands beside it in another form."""
HEADING = re.compile(r"(?i)heading ([1-6])")
ENCRYPTED = 0x1
"""The flag of a packed file."""
READ_AT_A_TIME = 2**16


class Target(Protocol):
    """What the parser tells; named by lxml."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Begin an element."""
        ...


def read_docx(data: bytes, limits: Limits) -> Iterator[str]:
    """Yield the whole text: a DOCX has no pages until it is printed."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    main = _parts(archive, MAIN)
    if not main:
        raise Unreadable("is a ZIP archive without a document of Word: send it as what it is")
    styles, notes = _parts(archive, STYLES), _parts(archive, NOTES)
    _check([*main, *styles, *notes], limits)
    headings = _Headings()
    for part in styles:
        _parse(archive, part, headings)
    body = _Body(headings.marks)
    for part in [*main, *notes]:
        _parse(archive, part, body)
    yield body.lines.text()


def _parts(archive: zipfile.ZipFile, names: re.Pattern[str]) -> list[zipfile.ZipInfo]:
    return [part for part in archive.infolist() if names.fullmatch(part.filename)]


def _check(parts: list[zipfile.ZipInfo], limits: Limits) -> None:
    if any(part.flag_bits & ENCRYPTED for part in parts):
        raise Unreadable("is encrypted: remove its password first")
    # A part is never unpacked beyond the size that it declares.
    size, most = sum(part.file_size for part in parts), limits.unpacked_bytes
    if size > most:
        raise Unreadable(f"unpacks to {size} bytes, more than {most}: split it")


def _parse(archive: zipfile.ZipFile, part: zipfile.ZipInfo, target: Target) -> None:
    parser = etree.XMLParser(
        target=target, resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    with archive.open(part) as file:
        while some := file.read(READ_AT_A_TIME):
            parser.feed(some)
    parser.close()


def _word(tag: str) -> str:
    """Return the name of an element of Word's, or of an attribute; empty if it is another's."""
    for space in (WORD, STRICT):
        if tag.startswith(space):
            return tag.removeprefix(space)
    return ""


def _value(attributes: Mapping[str, str], name: str) -> str:
    return attributes.get(WORD + name) or attributes.get(STRICT + name) or ""


class _Headings:
    """The styles of headings; their ids differ from language to language, their names do not."""

    def __init__(self) -> None:
        self.marks: dict[str, str] = {}
        self._style = ""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        name = _word(tag)
        if name == "style":
            self._style = _value(attributes, "styleId")
        elif name == "name" and (found := HEADING.fullmatch(_value(attributes, "val"))):
            self.marks[self._style] = "#" * int(found.group(1)) + " "

    def close(self) -> None:
        """Nothing is left to do."""


class _Body:
    """The lines of a document."""

    def __init__(self, headings: Mapping[str, str]) -> None:
        self.lines = Lines()
        self._headings = headings
        self._in_text = False
        self._fallbacks = 0
        """How many are open."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._fallbacks += tag == FALLBACK
        name = "" if self._fallbacks else _word(tag)
        if name == "t":
            self._in_text = True
        elif name == "pStyle":
            self.lines.add(self._headings.get(_value(attributes, "val"), ""))
        elif name == "numPr":
            self.lines.add("- ")
        elif name == "tc":
            self.lines.begin_cell()
        elif name in ("tbl", "tr"):
            self.lines.end_row()
        elif name in ("br", "cr"):
            self.lines.end_line()
        elif name in ("tab", "noBreakHyphen"):
            self.lines.add(" " if name == "tab" else "-")

    def end(self, tag: str) -> None:
        self._fallbacks -= tag == FALLBACK
        name = "" if self._fallbacks else _word(tag)
        if name == "t":
            self._in_text = False
        elif name == "p":
            self.lines.end_block()
        elif name == "tr":
            self.lines.end_row()
        elif name == "tbl":
            self.lines.end_row()
            self.lines.end_block()

    def data(self, data: str) -> None:
        if self._in_text:
            self.lines.add(data)

    def close(self) -> None:
        """Nothing is left to do: another part may follow."""
