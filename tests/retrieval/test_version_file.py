"""The file of an exported index version: whole, or refused with the place."""

import io
import struct
from hashlib import sha256

import numpy as np
import pytest

from maieutic.v1.index_admin_service_pb2 import IndexVersion
from maieutic.v1.index_file_pb2 import (
    IndexFileChunks,
    IndexFileHeader,
    IndexFileRecord,
    IndexFileTrailer,
)
from services.retrieval.errors import BadIndexFile
from services.retrieval.model import Chunk
from services.retrieval.ports import Embedded
from services.retrieval.version_file import FORMAT, MAGIC, FileReader, FileWriter, vector_of

DIMENSION = 4
VERSION = IndexVersion(version_id="f" * 16, embedder="words", dimension=DIMENSION)
FIRST_RECORD = len(MAGIC) + 4


def embedded(number: int) -> Embedded:
    vector = np.zeros(DIMENSION, np.float32)
    vector[:2] = np.cos(number), np.sin(number)
    return Embedded(chunk=Chunk(id=f"c{number}", text=f"text {number} ü"), vector=vector)


def whole() -> bytes:
    writer = FileWriter()
    return b"".join(
        [
            writer.header(VERSION),
            writer.document("acme", "a" * 64),
            writer.chunks([embedded(0), embedded(1)]),
            writer.chunks([embedded(2)]),
            writer.document("other", "b" * 64),
            writer.trailer(),
        ]
    )


def records(data: bytes) -> list[IndexFileRecord]:
    return list(FileReader(io.BytesIO(data)).records())


def refusal(data: bytes) -> str:
    with pytest.raises(BadIndexFile) as raised:
        records(data)
    assert "before byte" in raised.value.message
    return raised.value.message


def sealed(data: bytes) -> bytes:
    """Return the data behind the right beginning, with the right checksum."""
    data = MAGIC + struct.pack("<I", FORMAT) + data
    return data + sha256(data).digest()


def framed(record: IndexFileRecord) -> bytes:
    data = record.SerializeToString()
    return struct.pack("<I", len(data)) + data


def test_what_was_written_is_read() -> None:
    header, first, some, more, second = records(whole())
    assert header.header.version == VERSION
    assert (first.document.tenant, first.document.content_hash) == ("acme", "a" * 64)
    assert second.document.tenant == "other"
    chunks = [*some.chunks.chunks, *more.chunks.chunks]
    for number, chunk in enumerate(chunks):
        assert chunk.text == embedded(number).chunk.text
        assert vector_of(chunk.vector).tolist() == embedded(number).vector.tolist()


def test_a_file_that_is_cut_anywhere_is_refused() -> None:
    data = whole()
    for end in range(len(data)):
        assert "cut off" in refusal(data[:end])


def test_a_bit_that_is_flipped_anywhere_is_found() -> None:
    data = whole()
    for place in range(len(data)):
        for bit in (1, 128):
            refusal(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])


def test_other_files_and_other_formats_are_refused() -> None:
    assert "no file of an index version" in refusal(b"PK\3\4" * 10)
    newer = MAGIC + struct.pack("<I", FORMAT + 1) + whole()[FIRST_RECORD:]
    assert f"format {FORMAT + 1} is not known" in refusal(newer)


def test_nothing_may_follow_the_end() -> None:
    assert "behind its end" in refusal(whole() + b"\0")


class Asked(io.BytesIO):
    """Notes the most bytes that were asked for at once."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        self.most = max(self.most, size)
        return super().read(size)


def test_an_absurd_length_is_refused_before_it_is_read() -> None:
    file = Asked(whole()[:FIRST_RECORD] + b"\xff\xff\xff\xff" + b"x" * 100)
    with pytest.raises(BadIndexFile, match="too long"):
        list(FileReader(file).records())
    assert file.most < 100


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (IndexFileRecord(), "does not belong"),
        (IndexFileRecord(header=IndexFileHeader(version=VERSION)), "does not belong"),
        (IndexFileRecord(chunks=IndexFileChunks()), "does not belong"),
        (IndexFileRecord(trailer=IndexFileTrailer(documents=1)), "are missing"),
    ],
)
def test_records_that_do_not_belong_are_refused(record: IndexFileRecord, problem: str) -> None:
    header = framed(IndexFileRecord(header=IndexFileHeader(version=VERSION)))
    end = framed(IndexFileRecord(trailer=IndexFileTrailer()))
    assert records(sealed(header + end))
    assert problem in refusal(sealed(header + framed(record) + end))


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ([1.0, 0, 0], "has not 4 numbers"),
        ([1.0, 1, 0, 0], "not of length 1"),
        ([float("nan"), 0, 0, 0], "not of length 1"),
        ([float("inf"), 0, 0, 0], "not of length 1"),
    ],
)
def test_vectors_that_are_none_are_refused(numbers: list[float], problem: str) -> None:
    writer = FileWriter()
    chunk = Embedded(chunk=Chunk(id="c", text="text"), vector=np.array(numbers, np.float32))
    data = writer.header(VERSION) + writer.document("acme", "a") + writer.chunks([chunk])
    assert problem in refusal(data + writer.trailer())


def test_a_file_without_a_header_is_refused() -> None:
    assert "header is missing" in refusal(
        sealed(framed(IndexFileRecord(trailer=IndexFileTrailer())))
    )
