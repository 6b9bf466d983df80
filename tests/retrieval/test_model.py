"""What a document is: normal form, identity, chunks."""

import re

import pytest
from hypothesis import given, strategies as st

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.errors import BadDocument
from services.retrieval.model import (
    SECTION_CHARACTERS,
    Content,
    Splitter,
    checked_name,
    chunk_id,
    new_document_id,
    normalised,
    sections,
)
from services.retrieval.parsing.model import Unreadable
from tests.retrieval.corpus import descriptions

TEXT, MARKDOWN = pb.DOCUMENT_FORMAT_TEXT, pb.DOCUMENT_FORMAT_MARKDOWN
FORMATS = (TEXT, MARKDOWN)
ID = re.compile(r"^[A-Za-z0-9_-]{24}$")


def splitter(size: int = 1000, overlap: int = 200) -> Splitter:
    return Splitter(embedder="an embedder", size=size, overlap=overlap)


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@pytest.mark.parametrize("form", FORMATS)
def test_chunks_are_no_larger_than_asked_and_no_word_is_lost(
    form: pb.DocumentFormat.ValueType,
) -> None:
    for text in descriptions(20).values():
        content = normalised(text.encode())
        chunks = [chunk.text for chunk in splitter().chunks(content, form)]
        assert max(map(len, chunks)) <= 1000
        assert set(words_of(content.text)) == {word for one in chunks for word in words_of(one)}


@pytest.mark.parametrize("form", FORMATS)
def test_neighbours_share_at_most_the_overlap(form: pb.DocumentFormat.ValueType) -> None:
    sentences = [f"This is sentence number {number}." for number in range(400)]
    content = Content(text=" ".join(sentences))
    chunks = splitter(1000, 200).chunks(content, form)
    starts = [content.text.index(chunk.text) for chunk in chunks]
    ends = [start + len(chunk.text) for start, chunk in zip(starts, chunks, strict=True)]
    shared = [end - start for end, start in zip(ends, starts[1:], strict=False)]
    assert starts == sorted(starts)
    assert max(shared) <= 200
    assert sum(one > 100 for one in shared) >= len(shared) - 1


def test_splitting_again_gives_the_same_chunks() -> None:
    for text in descriptions(5).values():
        content = normalised(text.encode())
        assert splitter().chunks(content, MARKDOWN) == splitter().chunks(content, MARKDOWN)


def test_a_chunk_is_known_by_its_embedder_and_its_text() -> None:
    assert chunk_id("one", "text") == chunk_id("one", "text")
    assert len({chunk_id("one", "text"), chunk_id("two", "text"), chunk_id("one", "texts")}) == 3


def test_no_two_documents_have_the_same_id() -> None:
    ids = {new_document_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(ID.match(id_) for id_ in ids)


def test_the_same_text_in_other_bytes_is_the_same_document() -> None:
    forms = ("é\nb", "e\u0301\r\nb", "\ufeffé\rb", "é\u2028b")
    assert {normalised(form.encode()).hash for form in forms} == {Content(text="é\nb").hash}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a\xffb", "byte 1"),
        ("e".encode("utf-16"), "UTF-8"),
        (b"", "no text"),
        (b" \n\t\r\n", "no text"),
        (b"text and \0 text", "binary"),
        (b"\x01\x02\x03\x04 text", "binary"),
        (b"\xed\xa0\x80", "byte 0"),
        (("e" + "\u0301" * 31).encode(), "combining marks"),
    ],
)
def test_what_is_no_text_is_refused_with_the_reason(content: bytes, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        normalised(content)


def test_long_runs_of_symbols_and_some_marks_are_text() -> None:
    for text in ("─" * 500, "👩‍👩‍👧" * 100, "e" + "\u0301" * 30, "กำ้" * 100):
        assert normalised(text.encode()).text


def test_what_steers_a_screen_is_taken_out_of_a_text() -> None:
    assert normalised(b"a \x1b[31mred\x1b[0m text, with a bell\x07").text == (
        "a [31mred[0m text, with a bell"
    )


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.txt", "a/../b", "C:\\notes.txt", "a\\b", "~/x", "a//b", "a/"]
)
def test_a_path_is_no_name(name: str) -> None:
    with pytest.raises(BadDocument, match="path"):
        checked_name(name)


@pytest.mark.parametrize(
    "name", ["notes.txt", "guide/start.md", "C: the language", ".profile", "a..b"]
)
def test_a_name_may_tell_of_folders_below_the_one_that_was_added(name: str) -> None:
    assert checked_name(name) == name


@given(st.text(st.characters(codec="utf-8"), max_size=400))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    try:
        content = normalised(text.encode())
    except Unreadable:
        return
    assert normalised(content.data) == content
    assert all(splitter(50, 10).chunks(content, form) for form in FORMATS)


@given(st.lists(st.sampled_from(["word ", "\n", "\n\n", "\n# A", "x" * 999]), max_size=100))
def test_sections_are_bounded_and_make_up_the_whole_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = list(sections(text))
    assert all(0 < len(part) <= SECTION_CHARACTERS for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "pattern", ["a", "x\n", "\n", "\n \n", "- ", "> ", "[a](", "* * ", "| a ", "中", "\t\n", "\\\n"]
)
def test_no_text_takes_the_splitter_long(form: pb.DocumentFormat.ValueType, pattern: str) -> None:
    """Whole, several of these would take it minutes: the test's own time limit would end it."""
    content = normalised(b"x" + (pattern * (600_000 // len(pattern))).encode())
    assert splitter().chunks(content, form)
