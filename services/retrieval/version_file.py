"""The file of an exported index version (index_file.proto): pure, one record at a time."""

import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from maieutic.v1.index_admin_service_pb2 import IndexVersion
from maieutic.v1.index_file_pb2 import (
    IndexFileChunk,
    IndexFileChunks,
    IndexFileDocument,
    IndexFileHeader,
    IndexFileRecord,
    IndexFileTrailer,
)
from services.retrieval.errors import BadIndexFile
from services.retrieval.ports import Embedded, Vectors

MAGIC = b"MAIEUTIC INDEX\n\0"
FORMAT = 1
NUMBER = struct.Struct("<I")
MOST_RECORD_BYTES = 8 * 2**20
DIGEST_BYTES = 32
STORED = np.dtype("<f4")
UNIT = 1e-3
"""How far from 1 the length of a vector may be."""


class FileWriter:
    """Makes the file's bytes, in the order of the calls."""

    def __init__(self) -> None:
        self._digest = sha256()
        self._documents = 0
        self._chunks = 0

    def header(self, version: IndexVersion) -> bytes:
        """Return the beginning."""
        record = IndexFileRecord(header=IndexFileHeader(version=version))
        return self._counted(MAGIC + NUMBER.pack(FORMAT) + _framed(record))

    def document(self, tenant: str, content_hash: str) -> bytes:
        """Return the record of a document; its chunks come next."""
        self._documents += 1
        document = IndexFileDocument(tenant=tenant, content_hash=content_hash)
        return self._counted(_framed(IndexFileRecord(document=document)))

    def chunks(self, embedded: Sequence[Embedded]) -> bytes:
        """Return the record of some of the document's chunks, a hundred at most."""
        self._chunks += len(embedded)
        chunks = [
            IndexFileChunk(text=one.chunk.text, vector=one.vector.astype(STORED).tobytes())
            for one in embedded
        ]
        return self._counted(_framed(IndexFileRecord(chunks=IndexFileChunks(chunks=chunks))))

    def trailer(self) -> bytes:
        """Return the end."""
        trailer = IndexFileTrailer(documents=self._documents, chunks=self._chunks)
        return self._counted(_framed(IndexFileRecord(trailer=trailer))) + self._digest.digest()

    def _counted(self, data: bytes) -> bytes:
        self._digest.update(data)
        return data


class FileReader:
    """Reads a file from its beginning, with one record in memory.

    A file is whole only if `records` ends without an error: its checksum comes last.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = sha256()
        self._place = 0
        self._counts = IndexFileTrailer()

    def records(self) -> Iterator[IndexFileRecord]:
        """Yield header, documents and chunks; raises BadIndexFile, which names the place."""
        self._check_beginning()
        header = self._record()
        if not header.HasField("header"):
            raise self._bad("the header is missing")
        yield header
        while not (record := self._record()).HasField("trailer"):
            self._check(record, header.header.version.dimension)
            yield record
        if record.trailer != self._counts:
            raise self._bad("documents or chunks are missing")
        self._check_end()

    def _check_beginning(self) -> None:
        if self._read(len(MAGIC)) != MAGIC:
            raise self._bad("this is no file of an index version")
        (form,) = NUMBER.unpack(self._read(NUMBER.size))
        if form != FORMAT:
            raise self._bad(f"format {form} is not known here, only {FORMAT}")

    def _check(self, record: IndexFileRecord, dimension: int) -> None:
        if record.HasField("document"):
            self._counts.documents += 1
        elif record.HasField("chunks") and self._counts.documents:
            self._counts.chunks += len(record.chunks.chunks)
            for chunk in record.chunks.chunks:
                self._check_vector(chunk.vector, dimension)
        else:
            raise self._bad("the record does not belong here")

    def _check_vector(self, stored: bytes, dimension: int) -> None:
        if len(stored) != dimension * STORED.itemsize:
            raise self._bad(f"a vector has not {dimension} numbers")
        # Also false for what is not a number.
        if not abs(np.linalg.norm(vector_of(stored).astype(np.float64)) - 1) < UNIT:
            raise self._bad("a vector is not of length 1")

    def _check_end(self) -> None:
        expected = self._digest.digest()
        if self._read(DIGEST_BYTES) != expected:
            raise self._bad("the checksum is another one: the file is damaged")
        if self._file.read(1):
            raise self._bad("the file goes on behind its end")

    def _record(self) -> IndexFileRecord:
        (size,) = NUMBER.unpack(self._read(NUMBER.size))
        if size > MOST_RECORD_BYTES:
            raise self._bad(f"a record of {size} bytes is too long: the file is damaged")
        try:
            return IndexFileRecord.FromString(self._read(size))
        except DecodeError as error:
            raise self._bad("a record cannot be read: the file is damaged") from error

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._place += len(data)
        if len(data) < size:
            raise self._bad("the file is cut off")
        self._digest.update(data)
        return data

    def _bad(self, problem: str) -> BadIndexFile:
        return BadIndexFile(f"{problem} (before byte {self._place})")


def vector_of(stored: bytes) -> Vectors:
    """Return the vector, [dimension]."""
    return np.frombuffer(stored, STORED).astype(np.float32)


def _framed(record: IndexFileRecord) -> bytes:
    data = record.SerializeToString()
    return NUMBER.pack(len(data)) + data
