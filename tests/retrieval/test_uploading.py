"""Documents that come in parts."""

from collections.abc import Iterator

import pytest

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.settings import RetrievalSettings
from services.runtime.errors import AlreadyExists, InvalidArgument, NotFound
from tests.retrieval.parsing.files import pdf
from tests.retrieval.running import Retrieval, refusal_of
from tests.retrieval.test_documents import fields_of

MEBIBYTE = 2**20
TEXT = pb.DOCUMENT_FORMAT_TEXT


def parts(
    content: bytes,
    *,
    size: int = MEBIBYTE,
    form: pb.DocumentFormat.ValueType = TEXT,
    request_id: str = "upload-1",
    document_id: str = "",
) -> Iterator[pb.UploadDocumentRequest]:
    name = "" if document_id else "a file"
    header = pb.UploadHeader(request_id=request_id, name=name, format=form, document_id=document_id)
    yield pb.UploadDocumentRequest(header=header)
    for start in range(0, len(content), size):
        yield pb.UploadDocumentRequest(content=content[start : start + size])


async def test_a_file_in_parts_is_safe_first_and_then_tells_how_far_it_is(
    retrieval: Retrieval,
) -> None:
    user = retrieval.user()
    text = "\n\n".join(f"Paragraph {n} speaks of storks. " * 20 for n in range(100)).encode()
    answers = await user.upload(*parts(text, size=1000))
    first, last = answers[0].document, answers[-1].document
    assert (first.state, first.progress.stage) == (
        pb.DOCUMENT_STATE_PENDING,
        pb.INGEST_STAGE_ACCEPTED,
    )
    assert last.state == pb.DOCUMENT_STATE_READY
    stages = [answer.document.progress.stage for answer in answers]
    assert stages == sorted(stages)
    assert set(stages) >= {
        pb.INGEST_STAGE_PARSED,
        pb.INGEST_STAGE_CHUNKED,
        pb.INGEST_STAGE_EMBEDDED,
        pb.INGEST_STAGE_STORED,
    }
    look = pb.SearchDocumentsRequest(query="storks", version_token=answers[0].version_token)
    assert (await user.look(look)).passages
    (again, *_) = await user.upload(*parts(text))
    assert again.document == last


async def test_a_file_larger_than_a_message_is_taken(retrieval: Retrieval) -> None:
    page = pdf(["Owls hunt at night."])
    padded = page + b"\n%" + b"x" * (6 * MEBIBYTE)
    answers = await retrieval.user().upload(*parts(padded, form=pb.DOCUMENT_FORMAT_PDF))
    assert answers[-1].document.state == pb.DOCUMENT_STATE_READY
    assert answers[-1].document.size == len(padded)


async def test_an_upload_replaces_content_under_its_id(retrieval: Retrieval) -> None:
    user = retrieval.user()
    document_id = (await user.add("Storks nest on chimneys.")).document.document_id
    answers = await user.upload(*parts(b"Owls hunt at night.", document_id=document_id))
    assert answers[-1].document.document_id == document_id
    assert answers[-1].document.indexed_version == 2
    strange = parts(b"Swans.", document_id="x" * 24, request_id="upload-2")
    assert isinstance(await refusal_of(user.upload(*strange)), NotFound)


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "header"),
        ([pb.UploadDocumentRequest(content=b"first")], "header"),
        ([*parts(b"one"), *parts(b"two")], "content"),
        ([pb.UploadDocumentRequest(header=pb.UploadHeader(request_id="r"))], "header.name"),
        (list(parts(b"")), "content"),
        (list(parts(b"%PDF-1.7 broken", form=pb.DOCUMENT_FORMAT_PDF)), "content"),
        (list(parts(b"x", form=pb.DOCUMENT_FORMAT_UNSPECIFIED)), "format"),
    ],
)
async def test_a_wrong_upload_is_refused_by_field(
    retrieval: Retrieval, requests: list[pb.UploadDocumentRequest], field: str
) -> None:
    refusal = await refusal_of(retrieval.user().upload(*requests))
    assert isinstance(refusal, InvalidArgument)
    assert fields_of(refusal) == [field]


async def test_a_file_that_is_too_large_is_refused_and_one_without_end_is_cut_off(
    retrieval: Retrieval,
) -> None:
    most, sent = RetrievalSettings().parsing.file_bytes, 0

    def zeros(count: int) -> Iterator[pb.UploadDocumentRequest]:
        nonlocal sent
        yield from parts(b"", form=pb.DOCUMENT_FORMAT_PDF)
        for _ in range(count):
            sent += MEBIBYTE
            yield pb.UploadDocumentRequest(content=bytes(MEBIBYTE))

    user = retrieval.user()
    refusal = await refusal_of(user.stream_upload(zeros(most // MEBIBYTE + 2)))
    assert isinstance(refusal, InvalidArgument)
    assert str(most) in str(refusal)
    sent = 0
    await refusal_of(user.stream_upload(zeros(8 * most // MEBIBYTE)))
    assert sent < 4 * most
    assert await retrieval.archive.is_empty()


async def test_a_request_id_is_good_for_one_file(retrieval: Retrieval) -> None:
    user = retrieval.user()
    await user.upload(*parts(b"Storks."))
    assert isinstance(await refusal_of(user.upload(*parts(b"Owls."))), AlreadyExists)
