"""What a document is: its text, its identity, its chunks. Pure: no I/O, no clock.

The same text of one tenant is the same document, whoever adds it, and the same passage embedded by
the same model is the same chunk, in whatever document it is.
"""

import base64
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from maieutic.v1.document_service_pb2 import DocumentFormat
from services.retrieval.errors import BadDocument, NobodysDocuments
from services.retrieval.parsing.model import Form, Unreadable
from services.retrieval.parsing.normal import decoded, normal_form
from services.runtime.errors import InvalidArgument

DOCUMENT_ID_BYTES = 18
TOKEN = re.compile(r"d[0-9]{1,18}")
SPLITTER_VERSION = "1"
"""Part of every chunk id: raise it when equal chunk texts should be embedded anew."""
SECTION_CHARACTERS = 16_000
"""The splitter's time grows with the square of an unbroken text: measured, 2 MB without a break
take minutes whole and a second in sections."""

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")
PATH = re.compile(r"^[/~]|\\|^[A-Za-z]:\S|(?:^|/)\.{0,2}(?:/|$)")
"""Of a name: what only a path has. Folders below one that was added are part of a name."""
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


def normalised(data: bytes) -> Content:
    """Return the text of UTF-8 in normal form; raises Unreadable if it is none."""
    return content_of(normal_form(decoded(data)))


def content_of(text: str) -> Content:
    """Return the content that has this text in normal form; raises Unreadable if it is blank."""
    if not text.strip():
        raise Unreadable("holds no text: send a document with some")
    return Content(text=text)


def checked_name(name: str) -> str:
    """Return the document's name; raises BadDocument if it is none that lists could show."""
    if not name.strip():
        raise BadDocument("name", "is empty: give the document a name")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise BadDocument("name", "holds control characters: use one line of text")
    if PATH.search(name):
        raise BadDocument("name", "is a path: send the file's name, without drive, root or '..'")
    return name


def checked_form(form: DocumentFormat.ValueType) -> Form:
    """Return what the bytes are said to be; raises BadDocument if that is not known."""
    try:
        return Form(DocumentFormat.Name(form).removeprefix("DOCUMENT_FORMAT_"))
    except ValueError as error:
        raise BadDocument("format", f"is not known: choose {', '.join(Form)}") from error


class SharedKind(Enum):
    """What users of a tenant share documents by."""

    SET = "set"
    COLLECTION = "collection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A set, by its id, or a collection, by its name."""

    kind: SharedKind
    name: str


def document_set_id(document_ids: Iterable[str]) -> str:
    """Return the id of a set of documents, in whatever order they come, 24 characters."""
    digest = sha256("\n".join(sorted(set(document_ids))).encode()).digest()
    return base64.urlsafe_b64encode(digest[:DOCUMENT_ID_BYTES]).decode()


def version_token(revision: int) -> str:
    """Return what stands for all changes of the tenant's documents up to this one."""
    return f"d{revision}"


def parse_version_token(token: str) -> int | None:
    """Return the revision, None if none is demanded; raises InvalidArgument for anything else."""
    if not token:
        return None
    if not TOKEN.fullmatch(token):
        raise InvalidArgument("version_token", "is not from an earlier answer: leave it empty")
    return int(token[1:])


def new_document_id() -> str:
    """Return an id that nobody can guess, 24 characters of base64url.

    It says nothing of the content, which may be replaced.
    """
    return secrets.token_urlsafe(DOCUMENT_ID_BYTES)


def chunk_id(embedder: str, text: str) -> str:
    """Return the id under which a chunk's vector is stored, 64 hex digits."""
    return sha256(f"{embedder}\0{SPLITTER_VERSION}\0{text}".encode()).hexdigest()


def chunks_hash(chunk_ids: Iterable[str]) -> str:
    """Return the hash of a set of chunks, 64 hex digits: equal sets have equal hashes."""
    return sha256("\n".join(sorted(set(chunk_ids))).encode()).hexdigest()


class Splitter:
    """Cuts documents into chunks at their own boundaries: headings, paragraphs, sentences."""

    def __init__(self, *, embedder: str, size: int = 1000, overlap: int = 200) -> None:
        """Make chunks of at most *size* characters for the embedder of that name.

        Neighbours share up to *overlap* characters, so that a sentence at a border is whole in one
        of them.
        """
        self._embedder = embedder
        self._version = f"{embedder}/{SPLITTER_VERSION}/{size}/{overlap}"
        plain, marked = TextSplitter(size, overlap), MarkdownSplitter(size, overlap)
        # The text of a web page or of Word's documents has the marks of Markdown.
        self._splitters: Mapping[DocumentFormat.ValueType, TextSplitter | MarkdownSplitter] = {
            DocumentFormat.DOCUMENT_FORMAT_TEXT: plain,
            DocumentFormat.DOCUMENT_FORMAT_MARKDOWN: marked,
            DocumentFormat.DOCUMENT_FORMAT_HTML: marked,
            DocumentFormat.DOCUMENT_FORMAT_PDF: plain,
            DocumentFormat.DOCUMENT_FORMAT_DOCX: marked,
        }

    @property
    def version(self) -> str:
        """The embedder and how it is cut: documents of one version can be searched together."""
        return self._version

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
