"""The archive over gRPC, as the session and the retrieval service call it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.v1.document_service_pb2 import (
    DOCUMENT_FORMAT_TEXT,
    DOCUMENT_STATE_READY,
    Document,
    DocumentFormat,
)
from services.persistence.errors import DocumentNotFound, RequestIdTaken
from services.runtime.errors import AlreadyExists, NotFound, from_rpc
from services.runtime.server import MEBIBYTE
from tests.contracts.archives import ArchiveHarness, sqlite_harness
from tests.persistence.office import Office, office
from tests.persistence.stories import TENANT, USER, Story, fact

if TYPE_CHECKING:
    from maieutic.archive.v1.archive_service_pb2_grpc import ArchiveServiceAsyncStub


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ArchiveHarness]:
    async with sqlite_harness(tmp_path) as opened:
        yield opened


@pytest.fixture
async def running(harness: ArchiveHarness) -> AsyncIterator[Office]:
    async with office(harness.archive) as opened:
        yield opened


def register(content: bytes = b"text", **changes: str) -> pb.RegisterDocumentRequest:
    return pb.RegisterDocumentRequest(
        tenant=TENANT,
        user_id=USER,
        request_id=changes.get("request_id", "add-1"),
        request_hash=content[:32],
        document=Document(
            document_id=changes.get("document_id", "document-1"),
            name="Ships",
            format=DOCUMENT_FORMAT_TEXT,
            size=len(content),
            content_hash=changes.get("content_hash", "c0ffee"),
        ),
        content=content,
    )


async def test_a_snapshot_travels_whole(harness: ArchiveHarness, running: Office) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished(1)), fact(story.accepted(2))])
    async with running.stub() as stub:
        request = pb.GetSessionSnapshotRequest(session_id=story.session_id, window=20)
        snapshot = await stub.GetSessionSnapshot(request)
    assert snapshot == pb.GetSessionSnapshotResponse(
        tenant=TENANT,
        session=story.session(revision=20),
        window=[story.finished().job.message, story.finished().answer, story.job(2).message],
        unfinished=[story.job(2)],
        last_position=3,
        last_turn_id=story.turn_id(2),
    )


async def test_what_the_archive_does_not_know_is_an_empty_answer(running: Office) -> None:
    async with running.stub() as stub:
        snapshot = await stub.GetSessionSnapshot(pb.GetSessionSnapshotRequest(session_id="x"))
        turn = await stub.GetArchivedTurn(pb.GetArchivedTurnRequest(turn_id="x"))
    assert snapshot == pb.GetSessionSnapshotResponse()
    assert turn == pb.GetArchivedTurnResponse()


async def test_a_turn_travels_with_its_outcome(harness: ArchiveHarness, running: Office) -> None:
    story = Story("one")
    await harness.archive.apply([fact(story.finished())])
    request = pb.GetArchivedTurnRequest(turn_id=story.turn_id(1), session_id=story.session_id)
    async with running.stub() as stub:
        turn = await stub.GetArchivedTurn(request)
        assert turn.finished == story.finished()
        assert turn.HasField("archive_time")
        await harness.archive.apply([fact(story.deleted())])
        assert await stub.GetArchivedTurn(request) == pb.GetArchivedTurnResponse(
            session_deleted=True
        )


async def test_sessions_and_messages_are_paged_by_place(
    harness: ArchiveHarness, running: Office
) -> None:
    stories = [Story(f"s{age}", age=age) for age in range(3)]
    await harness.archive.apply([fact(story.finished()) for story in stories])
    async with running.stub() as stub:
        request = pb.ListArchivedSessionsRequest(tenant=TENANT, user_id=USER, limit=2)
        first = (await stub.ListArchivedSessions(request)).sessions
        request.before_create_time.CopyFrom(first[-1].create_time)
        request.before_session_id = first[-1].session_id
        second = (await stub.ListArchivedSessions(request)).sessions
        assert [s.session_id for s in [*first, *second]] == [
            story.session_id for story in reversed(stories)
        ]
        messages = pb.ListArchivedMessagesRequest(
            session_id=stories[0].session_id, before_position=2, limit=5
        )
        assert [m.position for m in (await stub.ListArchivedMessages(messages)).messages] == [1]
        messages = pb.ListArchivedMessagesRequest(
            session_id=stories[0].session_id, oldest_first=True, after_position=1, limit=5
        )
        answer = await stub.ListArchivedMessages(messages)
        assert ([m.position for m in answer.messages], answer.oldest_first) == ([2], True)


async def test_long_messages_come_in_answers_that_every_caller_takes(
    harness: ArchiveHarness, running: Office
) -> None:
    story, longest = Story("one"), "\N{GRINNING FACE}" * 32_768
    for number in range(1, 51):
        await harness.archive.apply([fact(story.finished(number, text=longest))])
    request = pb.ListArchivedMessagesRequest(session_id=story.session_id, limit=201)
    positions: list[int] = []
    cut = True
    async with running.stub() as stub:
        while cut:
            answer = await stub.ListArchivedMessages(request)
            assert answer.ByteSize() < 2.1 * MEBIBYTE
            positions += [message.position for message in answer.messages]
            request.before_position, cut = positions[-1], answer.cut
    assert positions == list(range(100, 0, -1))


async def test_a_document_of_two_mebibytes_is_registered_read_and_released(
    running: Office,
) -> None:
    content = b"x" * 2 * MEBIBYTE
    async with running.stub("retrieval") as stub:
        added = (await stub.RegisterDocument(register(content))).document
        assert added.size == 2 * MEBIBYTE
        assert await _indexed(stub) == content
        listing = pb.ListRegisteredDocumentsRequest(tenant=TENANT, user_id=USER, limit=5)
        (listed,) = (await stub.ListRegisteredDocuments(listing)).documents
        assert (listed.document_id, listed.chunk_count) == ("document-1", 3)
        owned = pb.GetRegisteredDocumentRequest(
            tenant=TENANT, user_id=USER, document_id="document-1"
        )
        assert (await stub.GetRegisteredDocument(owned)).document == listed
        release = pb.ReleaseDocumentRequest(tenant=TENANT, user_id=USER, document_id="document-1")
        assert (await stub.ReleaseDocument(release)).last
        await _removed(stub)
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await stub.GetRegisteredDocument(owned)
    error = from_rpc(missing.value)
    assert isinstance(error, NotFound)
    assert error.reason == DocumentNotFound("document-1").reason


async def _claimed(stub: "ArchiveServiceAsyncStub") -> pb.ClaimDocumentResponse:
    request = pb.ClaimDocumentRequest(
        tenant=TENANT,
        document_id="document-1",
        claim_id="w",
        lease=Duration(seconds=60),
        most_attempts=5,
    )
    return await stub.ClaimDocument(request)


async def _indexed(stub: "ArchiveServiceAsyncStub") -> bytes:
    """Do a worker's part of the document; returns the bytes that were given to it."""
    work = await _claimed(stub)
    assert work.work == pb.DOCUMENT_WORK_INDEX
    renew = pb.RenewDocumentClaimRequest(
        tenant=TENANT, document_id="document-1", claim_id="w", lease=Duration(seconds=60)
    )
    assert (await stub.RenewDocumentClaim(renew)).held
    finish = pb.FinishDocumentRequest(
        tenant=TENANT, document_id="document-1", claim_id="w", chunk_count=3, version=1
    )
    finished = await stub.FinishDocument(finish)
    assert finished.document.state == DOCUMENT_STATE_READY
    assert not (await stub.FinishDocument(finish)).held
    return work.content


async def _removed(stub: "ArchiveServiceAsyncStub") -> None:
    """Hand the removal back once, and do it when it is handed out again."""
    assert (await _claimed(stub)).work == pb.DOCUMENT_WORK_REMOVE
    release = pb.ReleaseDocumentClaimRequest(tenant=TENANT, document_id="document-1", claim_id="w")
    await stub.ReleaseDocumentClaim(release)
    due = await stub.ListDueDocuments(pb.ListDueDocumentsRequest(limit=9))
    assert list(due.documents) == [pb.DocumentKey(tenant=TENANT, document_id="document-1")]
    await _claimed(stub)
    drop = pb.DropDocumentRequest(tenant=TENANT, document_id="document-1", claim_id="w")
    assert (await stub.DropDocument(drop)).dropped


async def test_a_request_id_used_for_another_request_is_already_taken(running: Office) -> None:
    async with running.stub("retrieval") as stub:
        await stub.RegisterDocument(register())
        with pytest.raises(grpc.aio.AioRpcError) as taken:
            await stub.RegisterDocument(
                register(b"other", document_id="document-2", content_hash="beef")
            )
    error = from_rpc(taken.value)
    assert isinstance(error, AlreadyExists)
    assert error.reason == RequestIdTaken.default_reason


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (register(request_id=""), "request_id"),
        (register(document_id=""), "document.document_id"),
        (register(content_hash=""), "document.content_hash"),
    ],
)
async def test_a_bad_registration_is_told_its_field(
    running: Office, request_: pb.RegisterDocumentRequest, field: str
) -> None:
    async with running.stub("retrieval") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as bad:
            await stub.RegisterDocument(request_)
    assert bad.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (bad.value.details() or "")


async def test_bad_limits_times_and_formats_are_told_their_field(running: Office) -> None:
    unknown = register()
    unknown.document.format = DocumentFormat.ValueType(77)
    place = pb.ListArchivedSessionsRequest(tenant=TENANT, user_id=USER, limit=1)
    place.before_create_time.seconds = 2**60
    async with running.stub() as stub:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "window": lambda: stub.GetSessionSnapshot(pb.GetSessionSnapshotRequest(window=-1)),
            "limit": lambda: stub.ListArchivedMessages(
                pb.ListArchivedMessagesRequest(session_id="x", limit=0)
            ),
            "before_create_time": lambda: stub.ListArchivedSessions(place),
            "document.format": lambda: stub.RegisterDocument(unknown),
            "claim_id": lambda: stub.DropDocument(pb.DropDocumentRequest()),
            "lease": lambda: stub.ListDueDocuments(
                pb.ListDueDocumentsRequest(lease=Duration(seconds=-1), limit=1)
            ),
        }
        for field, call in calls.items():
            with pytest.raises(grpc.aio.AioRpcError) as bad:
                await call()
            assert bad.value.code() is grpc.StatusCode.INVALID_ARGUMENT, field
            assert field in (bad.value.details() or "")


async def test_the_archive_answers_services_only(running: Office) -> None:
    request = pb.GetSessionSnapshotRequest(session_id="x")
    async with running.stub("gateway") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetSessionSnapshot(request)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
