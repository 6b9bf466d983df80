"""Makes files of the formats that are parsed, sound ones and others."""

import io
import zipfile
from collections.abc import Mapping, Sequence

CONTENT_TYPES = """<?xml version="1.0"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/></Types>"""
RELATIONSHIPS = """<?xml version="1.0"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="r1" Target="word/document.xml" Type=
"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/>
</Relationships>"""
STYLES = """<?xml version="1.0"?>
<w:styles xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">
<w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/></w:style></w:styles>"""
DOCUMENT = """<?xml version="1.0"?>{doctype}
<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">
<w:body>{body}</w:body></w:document>"""


def pdf(pages: Sequence[str], *, encrypted: bool = False) -> bytes:
    """Return a PDF; each line of a page's text is a line of the page."""
    objects = ["<</Type/Catalog/Pages 2 0 R>>", ""]
    objects += ["<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    kids = []
    for text in pages:
        shown = "".join(f"({_escaped(line)})Tj T*\n" for line in text.split("\n"))
        stream = f"BT /F1 10 Tf 12 TL 50 800 Td\n{shown}ET"
        objects.append(f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream")
        contents = len(objects)
        objects.append(
            f"<</Type/Page/Parent 2 0 R/Contents {contents} 0 R/MediaBox[0 0 595 842]"
            "/Resources<</Font<</F1 3 0 R>>>>>>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<</Type/Pages/Count {len(kids)}/Kids[{' '.join(kids)}]>>"
    lock = f"/Encrypt<</Filter/Standard/V 1/R 2/O<{'41' * 32}>/U<{'42' * 32}>/P -4>>"
    return _pdf_file(objects, f"{lock}/ID[<00><00>]" if encrypted else "")


def _escaped(line: str) -> str:
    return line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def _pdf_file(objects: Sequence[str], trailer: str) -> bytes:
    file, places = io.BytesIO(), []
    file.write(b"%PDF-1.4\n")
    for number, one in enumerate(objects, start=1):
        places.append(file.tell())
        file.write(f"{number} 0 obj\n{one}\nendobj\n".encode("latin-1"))
    table = file.tell()
    entries = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    file.write(f"xref\n0 {size}\n0000000000 65535 f \n{entries}".encode())
    file.write(f"trailer<</Size {size}/Root 1 0 R{trailer}>>\nstartxref\n{table}\n%%EOF".encode())
    return file.getvalue()


def docx(body: str, *, doctype: str = "", others: Mapping[str, bytes | str] | None = None) -> bytes:
    """Return a DOCX with this XML as its body, and with *others* among its parts."""
    parts: dict[str, bytes | str] = {
        "[Content_Types].xml": CONTENT_TYPES,
        "_rels/.rels": RELATIONSHIPS,
        "word/styles.xml": STYLES,
        "word/document.xml": DOCUMENT.format(body=body, doctype=doctype),
    }
    return zipped({**parts, **(others or {})})


def zipped(parts: Mapping[str, bytes | str]) -> bytes:
    """Return a ZIP archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def paragraph(text: str, *, style: str = "") -> str:
    """Return a paragraph of a DOCX's body."""
    styled = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{styled}<w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of a DOCX's body."""
    lines = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{line}</w:tr>' for line in lines)}</w:tbl>"
