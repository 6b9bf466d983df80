"""Documents that come in parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.errors import BadDocument
from services.retrieval.library import Upload
from services.retrieval.model import Owner
from services.retrieval.registry import Operation
from services.runtime.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted

UPLOADS_AT_ONCE = 8
"""Each may hold a whole file in memory."""
TURN_SECONDS = 10.0
PART_SECONDS = 30.0

Requests = AsyncIterator[pb.UploadDocumentRequest]


class Uploads:
    """Receives files of bounded size, a bounded number at once."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._turn = asyncio.Semaphore(UPLOADS_AT_ONCE)

    @asynccontextmanager
    async def receiving(
        self, owner: Owner, requests: Requests
    ) -> AsyncIterator[tuple[pb.UploadHeader, Upload]]:
        """Hold a file during the block.

        Raises BadDocument, InvalidArgument, ResourceExhausted if too many others send theirs, and
        DeadlineExceeded if the sender is too slow.
        """
        try:
            await asyncio.wait_for(self._turn.acquire(), TURN_SECONDS)
        except TimeoutError as error:
            raise ResourceExhausted("too many files come at once", retry_after=5.0) from error
        try:
            header = await _header(requests)
            content = await self._content(requests)
            yield header, _upload(owner, header, content)
        finally:
            self._turn.release()

    async def _content(self, requests: Requests) -> bytes:
        content, size = bytearray(), 0
        # A sender that is stopped in the middle is not told why, so a little more is read past.
        while size <= 2 * self._most_bytes and (request := await _next(requests)) is not None:
            if request.WhichOneof("part") != "content":
                raise InvalidArgument("content", "is missing: only the first message is a header")
            size += len(request.content)
            if size <= self._most_bytes:
                content += request.content
        if size > self._most_bytes:
            raise BadDocument("content", f"is larger than {self._most_bytes} bytes: split it")
        return bytes(content)


async def _header(requests: Requests) -> pb.UploadHeader:
    first = await _next(requests)
    if first is None or not first.HasField("header"):
        raise InvalidArgument("header", "is missing: the first message says what comes")
    if bool(first.header.name) == bool(first.header.document_id):
        raise InvalidArgument("header.name", "is needed, or else header.document_id, not both")
    return first.header


async def _next(requests: Requests) -> pb.UploadDocumentRequest | None:
    try:
        return await asyncio.wait_for(anext(requests, None), PART_SECONDS)
    except TimeoutError as error:
        raise DeadlineExceeded("the next part of the file did not come in time") from error


def _upload(owner: Owner, header: pb.UploadHeader, content: bytes) -> Upload:
    named = b"UploadDocument\0" + header.SerializeToString(deterministic=True)
    return Upload(
        operation=Operation(
            owner=owner,
            request_id=header.request_id,
            request_hash=sha256(named + sha256(content).digest()).digest(),
        ),
        name=header.name or header.document_id,
        format=header.format,
        content=content,
    )
