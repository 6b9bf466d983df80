"""PDF, by PDFium."""

import re
from collections.abc import Iterator

import pypdfium2
import pypdfium2.raw as pdfium

from services.retrieval.parsing.model import Limits, Unreadable

HYPHEN = re.compile("[\x02\ufffe](?:\r?\n)?")
"""How PDFium marks a word that a line's end divides."""
LOCKED = frozenset({pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY})


def read_pdf(data: bytes, limits: Limits) -> Iterator[str]:
    """Yield the text of each page; cells of a table's row stand in one line."""
    document = _opened(data)
    if len(document) > limits.pages:
        raise Unreadable(f"has {len(document)} pages, more than {limits.pages}: split it")
    for number in range(len(document)):
        yield _page_text(document, number)


def _opened(data: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in LOCKED:
            raise Unreadable("is encrypted: remove its password first") from error
        raise Unreadable("is broken: no PDF can be read from it") from error


def _page_text(document: pypdfium2.PdfDocument, number: int) -> str:
    try:
        page = document[number]
        text: str = page.get_textpage().get_text_bounded()
    except pypdfium2.PdfiumError as error:
        raise Unreadable("is broken", page=number + 1) from error
    page.close()
    return HYPHEN.sub("", text)
