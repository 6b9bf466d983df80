"""What a document is: its text, its identity, its chunks. Pure: no I/O, no clock.

Everything is named by its content. The same text of one tenant is the same document, whoever adds
it, and the same passage embedded by the same model is the same chunk, in whatever document it is.
"""

import base64
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from maieutic.v1.document_service_pb2 import DocumentFormat
from services.retrieval.errors import BadDocument, NobodysDocuments

MAX_CONTENT_BYTES = 2 * 1024 * 1024
DOCUMENT_ID_BYTES = 18
SPLITTER_VERSION = "1"
"""Part of every chunk id: raise it when equal chunk texts should be embedded anew."""
SECTION_CHARACTERS = 16_000
"""The splitter's time grows with the square of an unbroken text: measured, 2 MB without a break
take minutes whole and a second in sections."""

LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")
SYMBOLS = re.compile(r"[^\w\s\x00-\x7f]{31,}")
MAX_COMBINING_MARKS = 30
"""In a row, as Unicode's stream-safe text format has it: to order more takes quadratic time."""
BREAKS = ("\n# ", "\n## ", "\n\n", "\n", " ")
"""Where a section may end, the best place first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The user of a tenant to whom documents belong; raises NobodysDocuments if it is neither."""

    tenant: str
    user: str

    def __post_init__(self) -> None:
        if not (self.tenant and self.user):
            raise NobodysDocuments


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A document's normalised text."""

    text: str

    @property
    def data(self) -> bytes:
        """The text as it is stored."""
        return self.text.encode()

    @property
    def hash(self) -> str:
        """The document's version: sha256 of the stored bytes, 64 hex digits."""
        return sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a document, the unit of embedding and of search."""

    id: str
    text: str


def normalised(content: bytes) -> Content:
    """Return the text in one form, so that equal texts are equal bytes.

    UTF-8 without a byte order mark, Unicode NFC, lines ended by one newline. Raises BadDocument if
    the bytes are too many, are not UTF-8, or say nothing.
    """
    if len(content) > MAX_CONTENT_BYTES:
        raise BadDocument(
            "content", f"is larger than {MAX_CONTENT_BYTES} bytes: split the document"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start}): convert it first"
        raise BadDocument("content", problem) from error
    if _piles_marks(text):
        problem = f"piles over {MAX_COMBINING_MARKS} combining marks on one character: remove them"
        raise BadDocument("content", problem)
    text = LINE_ENDS.sub("\n", unicodedata.normalize("NFC", text))
    if not text.strip():
        raise BadDocument("content", "holds no text: send a document with some")
    return Content(text=text)


def _piles_marks(text: str) -> bool:
    # Marks are no word characters, so only long runs of symbols need the slow look.
    return any(
        _longest_pile(found.group()) > MAX_COMBINING_MARKS for found in SYMBOLS.finditer(text)
    )


def _longest_pile(symbols: str) -> int:
    piles = groupby(symbols, lambda symbol: unicodedata.combining(symbol) > 0)
    return max(sum(1 for _ in pile) if marks else 0 for marks, pile in piles)


def checked_name(name: str) -> str:
    """Return the document's name; raises BadDocument if lists could not show it."""
    if not name.strip():
        raise BadDocument("name", "is empty: give the document a name")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise BadDocument("name", "holds control characters: use one line of text")
    return name


def document_id(tenant: str, content: Content) -> str:
    """Return the id of this content at this tenant, 24 characters of base64url."""
    digest = sha256(f"{len(tenant)}:{tenant}:{content.hash}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:DOCUMENT_ID_BYTES]).decode()


def chunk_id(embedder: str, text: str) -> str:
    """Return the id under which a chunk's vector is stored, 64 hex digits."""
    return sha256(f"{embedder}\0{SPLITTER_VERSION}\0{text}".encode()).hexdigest()


class Splitter:
    """Cuts documents into chunks at their own boundaries: headings, paragraphs, sentences."""

    def __init__(self, *, embedder: str, size: int = 1000, overlap: int = 200) -> None:
        """Make chunks of at most *size* characters for the embedder of that name.

        Neighbours share up to *overlap* characters, so that a sentence at a border is whole in one
        of them.
        """
        self._embedder = embedder
        self._splitters: Mapping[DocumentFormat.ValueType, TextSplitter | MarkdownSplitter] = {
            DocumentFormat.DOCUMENT_FORMAT_TEXT: TextSplitter(size, overlap),
            DocumentFormat.DOCUMENT_FORMAT_MARKDOWN: MarkdownSplitter(size, overlap),
        }

    def checked_format(self, form: DocumentFormat.ValueType) -> DocumentFormat.ValueType:
        """Return the format; raises BadDocument if documents of it cannot be split."""
        if form not in self._splitters:
            raise BadDocument("format", "is not known: choose TEXT or MARKDOWN")
        return form

    def chunks(self, content: Content, form: DocumentFormat.ValueType) -> list[Chunk]:
        """Return the document's chunks in their order; a text that repeats gives equal chunks.

        Takes up to seconds for the largest documents. The format must be a checked one.
        """
        splitter = self._splitters[form]
        texts = (text for section in sections(content.text) for text in splitter.chunks(section))
        return [Chunk(id=chunk_id(self._embedder, text), text=text) for text in texts]


def sections(text: str) -> Iterator[str]:
    """Cut a text into parts that the splitter can take, at the best break of each part's end."""
    # Thousands of blank lines in a row cost a Markdown parser minutes, and say nothing.
    text = BLANK_LINES.sub("\n\n\n", text)
    start = 0
    while start < len(text):
        end = _section_end(text, start)
        yield text[start:end]
        start = end


def _section_end(text: str, start: int) -> int:
    limit = start + SECTION_CHARACTERS
    if limit >= len(text):
        return len(text)
    # A break in the first half would make small sections of a text full of headings.
    breaks = (text.rfind(mark, start + SECTION_CHARACTERS // 2, limit) for mark in BREAKS)
    return next((place for place in breaks if place > 0), limit)
