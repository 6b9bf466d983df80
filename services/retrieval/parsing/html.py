"""HTML, by lxml, to text with the marks of Markdown.

The parser tells of tags one after another and builds no tree, so depth costs nothing.
"""

import codecs
import re
from collections.abc import Iterator, Mapping

from lxml import etree

from services.retrieval.parsing.lines import Lines
from services.retrieval.parsing.model import Limits, Unreadable
from services.retrieval.parsing.normal import check_text

CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
LOOKED_AT = 1024
"""Bytes in which a page must say its charset."""
SILENT = frozenset({"script", "style"})
HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
# fmt: off
BLOCKS = frozenset({
    *HEADINGS,
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details",
    "dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header",
    "hr", "legend", "main", "menu", "nav", "ol", "optgroup", "option", "p", "pre", "search",
    "section", "select", "summary", "table", "title", "ul",
})
# fmt: on
CELLS = frozenset({"td", "th"})
ROWS = frozenset({"table", "tr"})


def read_html(data: bytes, limits: Limits) -> Iterator[str]:
    """Yield the whole text."""
    yield text_of_html(_decoded(data))


def text_of_html(page: str) -> str:
    """Return what a reader of the page sees, in its order.

    Headings, list items and code keep their Markdown marks; a row of a table is one line.
    """
    check_text(page)
    parser = etree.HTMLParser(target=_Text(), encoding="utf-8")
    parser.feed(page.encode("utf-8", "replace"))
    text: str = parser.close()
    return text


def _decoded(data: bytes) -> str:
    name = _charset(data)
    try:
        return data.decode(name)
    except LookupError as error:
        raise Unreadable(f"says its charset is {name!r}, which is not known") from error
    except UnicodeError as error:
        at = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise Unreadable(f"is not {name.upper()}{at}: declare its charset") from error


def _charset(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    declared = CHARSET.search(data[:LOOKED_AT])
    # What declares itself in single bytes is no UTF-16, whatever it says.
    name = declared.group(1).decode("ascii", "replace").lower() if declared else "utf-8"
    return "utf-8-sig" if name.startswith(("utf-8", "utf8", "utf-16")) else name


class _Text:
    """The lines of a page; its methods are named by lxml."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._silent = False

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag in SILENT:
            self._silent = True
        elif tag in CELLS:
            self._lines.begin_cell()
        elif tag == "br":
            self._lines.end_line()
        elif tag == "img":
            self._lines.add(attributes.get("alt", ""))
        elif tag == "pre":
            self._lines.begin_code()
        else:
            self._begin_block(tag)

    def _begin_block(self, tag: str) -> None:
        if tag in ROWS:
            self._lines.end_row()
        if tag == "li":
            self._lines.end_line()
            self._lines.add("- ")
        elif tag in BLOCKS:
            self._lines.end_block()
            self._lines.add(HEADINGS.get(tag, ""))

    def end(self, tag: str) -> None:
        if tag in SILENT:
            self._silent = False
        elif tag == "pre":
            self._lines.end_code()
        elif tag in ROWS:
            self._lines.end_row()
        if tag in BLOCKS:
            self._lines.end_block()

    def data(self, data: str) -> None:
        if not self._silent:
            self._lines.add(data)

    def close(self) -> str:
        return self._lines.text()
