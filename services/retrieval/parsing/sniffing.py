"""What bytes are by their own account, which must agree with what their sender says."""

import re
from collections.abc import Mapping

from services.retrieval.parsing.model import Form, Unreadable

LOOKED_AT = 1024
"""Bytes. A PDF may begin behind others, its readers say."""
PDF_MARK = b"%PDF-"
ZIP_MARK = b"PK\x03\x04"
OTHERS: Mapping[bytes, str] = {
    b"\xd0\xcf\x11\xe0": "an Office file that is encrypted, or of a version before 2007",
    b"{\\rtf": "an RTF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x1f\x8b": "gzip data",
    b"\x7fELF": "a program",
    b"MZ\x90": "a program",
}
HTML_START = re.compile(rb"\s*<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE)
TAG = re.compile(rb"<\0?[a-zA-Z!/]")
"""In single bytes or in UTF-16."""


def check_form(data: bytes, form: Form) -> None:
    """Raise Unreadable, naming what the bytes are, unless they may be of that form."""
    found = _found(data)
    if found == form or (found is None and form in (Form.TEXT, Form.MARKDOWN)):
        return
    if found is None and form is Form.HTML and TAG.search(data):
        return
    raise Unreadable(f"is {found or 'something else'}, not {form}: send it as what it is")


def _found(data: bytes) -> Form | str | None:
    """Return the form, or in words what else it is; None if it does not say."""
    start = data[:LOOKED_AT]
    if start.startswith(ZIP_MARK):
        # Whether it is one of Word's is told by what is in it.
        return Form.DOCX
    if PDF_MARK in start:
        return Form.PDF
    if HTML_START.match(start.removeprefix(b"\xef\xbb\xbf")):
        return Form.HTML
    return next((name for mark, name in OTHERS.items() if start.startswith(mark)), None)
