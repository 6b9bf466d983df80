"""Text in one form, so that equal texts are equal bytes, and nothing in it steers a screen."""

import re
import unicodedata
from itertools import groupby

from services.retrieval.parsing.model import Unreadable

LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
BINARY_SHARE = 10
"""A text of which more than a tenth is control characters is none."""
BYTE_ORDER_MARK = "\ufeff"
SYMBOLS = re.compile(r"[^\w\s\x00-\x7f]{31,}")
MAX_COMBINING_MARKS = 30
"""In a row, as Unicode's stream-safe text format has it: to order more takes quadratic time."""


def decoded(data: bytes) -> str:
    """Return the text of UTF-8; raises Unreadable for anything else."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 (byte {error.start}): convert it first") from error
    check_text(text)
    return text


def check_text(text: str) -> None:
    """Raise Unreadable if a machine wrote it for machines."""
    if "\0" in text or len(CONTROLS.findall(text)) * BINARY_SHARE > len(text):
        raise Unreadable("is binary data, not text: send it in its own format")


def normal_form(text: str) -> str:
    """Return the text in NFC, lines ended by one newline, without control characters.

    A lone surrogate becomes a question mark. Doing it again changes nothing. Raises Unreadable if
    it would take quadratic time.
    """
    text = text.encode("utf-8", "replace").decode()
    text = CONTROLS.sub("", LINE_ENDS.sub("\n", text)).lstrip(BYTE_ORDER_MARK)
    if _piles_marks(text):
        most = MAX_COMBINING_MARKS
        raise Unreadable(f"piles over {most} combining marks on one character: remove them")
    return unicodedata.normalize("NFC", text)


def _piles_marks(text: str) -> bool:
    # Marks are no word characters, so only long runs of symbols need the slow look.
    return any(
        _longest_pile(found.group()) > MAX_COMBINING_MARKS for found in SYMBOLS.finditer(text)
    )


def _longest_pile(symbols: str) -> int:
    piles = groupby(symbols, lambda symbol: unicodedata.combining(symbol) > 0)
    return max(sum(1 for _ in pile) if marks else 0 for marks, pile in piles)
