"""What is read from sound documents."""

import pytest

from services.retrieval.parsing.model import Form
from services.retrieval.parsing.parser import Parser
from tests.retrieval.parsing.files import docx, paragraph, pdf, table

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def text_of(parser: Parser, data: bytes, form: Form) -> str:
    return (await parser.parse(data, form=form, name="a document")).content.text


async def test_text_and_markdown_are_taken_as_they_are(parser: Parser) -> None:
    for form in (Form.TEXT, Form.MARKDOWN):
        assert await text_of(parser, b"# One\r\n\r\n| a | b |", form) == "# One\n\n| a | b |"


async def test_a_page_keeps_its_headings_lists_code_and_the_rows_of_its_tables(
    parser: Parser,
) -> None:
    page = b"""<!DOCTYPE html><html><head><title>Fruit</title><style>p{}</style></head><body>
      <h1>Prices</h1><p>Of <b>all</b>
      fruit &amp; more.</p><ul><li>apples<li>pears</ul><script>alert("<p>no</p>")</script>
      <table><tr><th>Kind</th><th>Price</th></tr><tr><td><p>Apple</p></td><td>1.20</td></tr></table>
      <pre>if x:\n    y()</pre><!-- unseen --><img alt="A pear"></body></html>"""
    assert await text_of(parser, page, Form.HTML) == (
        "Fruit\n\n# Prices\n\nOf all fruit & more.\n\n- apples\n- pears\n\n"
        "| Kind | Price |\n| Apple | 1.20 |\n\n```\nif x:\n    y()\n```\n\nA pear"
    )


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("<p>Käse</p>".encode(), "Käse"),
        ("<p>Käse</p>".encode("utf-16"), "Käse"),
        ('<meta charset="iso-8859-1"><p>Käse</p>'.encode("latin-1"), "Käse"),
        ('<meta charset="utf-16"><p>Käse</p>'.encode(), "Käse"),
        (b"<p>&#xD800;&#0;&#x1F600;</p>", "\ufffd\ufffd😀"),
    ],
)
async def test_a_page_is_read_in_its_charset(parser: Parser, page: bytes, says: str) -> None:
    assert await text_of(parser, page, Form.HTML) == says


async def test_a_pdf_keeps_its_lines_and_knows_its_pages(parser: Parser) -> None:
    texts = ["The first page\nhas two lines", "", "The (third) page"]
    parsed = await parser.parse(pdf(texts), form=Form.PDF, name="a.pdf")
    text = parsed.content.text
    assert text == "The first page\nhas two lines\n\n\n\nThe (third) page"
    assert [parsed.page_at(text.index(word)) for word in ("first", "lines", "third")] == [1, 1, 3]


async def test_a_word_that_a_line_divides_is_one_word(parser: Parser) -> None:
    assert "together" in await text_of(parser, pdf(["put to-\ngether again"]), Form.PDF)


async def test_a_document_of_word_keeps_its_headings_and_the_rows_of_its_tables(
    parser: Parser,
) -> None:
    body = paragraph("Prices", style="Heading1") + paragraph("Of all fruit.")
    data = docx(body + table([["Kind", "Price"], ["Apple", "1.20"]]))
    assert await text_of(parser, data, Form.DOCX) == (
        "# Prices\n\nOf all fruit.\n\n| Kind | Price |\n| Apple | 1.20 |"
    )


async def test_only_a_pdf_has_pages(parser: Parser) -> None:
    parsed = await parser.parse(docx(paragraph("text")), form=Form.DOCX, name="a.docx")
    assert parsed.pages == ()
    assert parsed.page_at(0) is None
