import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from maieutic.v1 import document_service_pb2, session_service_pb2
from maieutic_client import (
    InvalidArgument,
    Maieutic,
    MaieuticError,
    NotFound,
    ResourceExhausted,
    RetryPolicy,
    SessionBusy,
    Unavailable,
)
from services.runtime import errors
from services.runtime.server import ServerOptions
from tests.fakes.conversations import echo
from tests.fakes.gateway import Stack, gateway_stack
from tests.waiting import wait_until

AT_ONCE = RetryPolicy(give_up_after=0.0)


async def test_a_session_is_created_read_listed_and_deleted(client: Maieutic) -> None:
    made = await client.sessions.create(title="Redis", metadata={"topic": "streams"})
    assert made.user_id == "ann"
    assert await client.sessions.get(made.session_id) == made
    assert [session.title async for session in client.sessions.list()] == ["Redis"]

    await client.sessions.delete(made.session_id)
    with pytest.raises(NotFound):
        await client.sessions.get(made.session_id)


async def test_lists_are_read_page_by_page(client: Maieutic) -> None:
    for number in range(5):
        await client.sessions.create(title=str(number))
    titles = [session.title async for session in client.sessions.list(page_size=2)]
    assert titles == ["4", "3", "2", "1", "0"]
    session = await client.sessions.create()
    for number in range(3):
        await client.turns.stream(session, str(number)).result()
    asked = [
        message.text
        async for message in client.sessions.messages(
            session, page_size=2, order=session_service_pb2.MESSAGE_ORDER_OLDEST_FIRST
        )
    ][::2]
    assert asked == ["0", "1", "2"]


async def test_a_turn_is_streamed_frame_by_frame(client: Maieutic) -> None:
    session = await client.sessions.create()
    stream = client.turns.stream(session.session_id, "what is a stream")
    kinds = [frame.WhichOneof("event") async for frame in stream]
    assert kinds == ["accepted", "started", *["delta"] * 4, "outcome"]
    assert stream.text == "what is a stream "


async def test_a_turn_is_begun_read_watched_and_cancelled(client: Maieutic) -> None:
    session = await client.sessions.create()
    turn = await client.turns.begin(session.session_id, "one two", request_id="r1")
    assert await client.turns.get(turn.turn_id) == turn
    assert (await client.turns.watch(turn.turn_id).result()).text == "one two "
    assert await client.turns.cancel(turn.turn_id) == turn
    texts = [message.text async for message in client.sessions.messages(session.session_id)]
    assert sorted(texts) == ["one two", "one two "]


async def test_documents_are_added_read_listed_searched_and_deleted(client: Maieutic) -> None:
    added = await client.documents.add("redis.md", "redis keeps streams")
    other = await client.documents.add("pg.txt", "postgres keeps rows")
    assert added.document.format == document_service_pb2.DOCUMENT_FORMAT_MARKDOWN
    assert other.document.format == document_service_pb2.DOCUMENT_FORMAT_TEXT
    assert await client.documents.get(added.document.document_id) == added.document
    assert [document.name async for document in client.documents.list()] == ["pg.txt", "redis.md"]
    assert [p.document_name for p in await client.documents.search("streams", limit=1)] == [
        "redis.md"
    ]
    await client.documents.delete(added.document.document_id)
    with pytest.raises(NotFound):
        await client.documents.get(added.document.document_id)


async def test_the_services_behind_see_the_tenant_and_the_user_of_the_key(
    stack: Stack, client: Maieutic
) -> None:
    await client.sessions.create()
    assert stack.conversations.calls == [("CreateSession", ("acme", "ann"))]


async def test_a_session_of_another_tenant_does_not_exist(stack: Stack, client: Maieutic) -> None:
    session = await client.sessions.create()
    async with Maieutic.connect(stack.address, api_key=stack.stranger_key) as stranger:
        with pytest.raises(NotFound) as raised:
            await stranger.sessions.get(session.session_id)
    assert raised.value.reason == "SESSION_NOT_FOUND"


async def test_an_error_of_a_service_keeps_its_code_reason_and_message(client: Maieutic) -> None:
    session = await client.sessions.create()
    with pytest.raises(SessionBusy) as raised:
        await client.turns.begin(session.session_id, "busy")
    assert raised.value.reason == "SESSION_BUSY"
    assert raised.value.message == "another turn is running"


async def test_a_session_over_documents_needs_every_one_of_them(
    stack: Stack, client: Maieutic
) -> None:
    known = (await client.documents.add("redis.md", "redis keeps streams")).document.document_id
    missing = "m" * 48
    with pytest.raises(NotFound) as raised:
        await client.sessions.create(document_ids=[known, missing])
    assert [violation.field for violation in raised.value.violations] == ["document_ids[1]"]
    assert missing in raised.value.message
    assert not stack.conversations.sessions

    session = await client.sessions.create(document_ids=[known])
    assert list(session.document_ids) == [known]


async def test_a_peer_that_is_away_is_unavailable_with_a_time_to_retry(
    stack: Stack, client: Maieutic
) -> None:
    await stack.retrieval.server.stop(None)
    async with Maieutic.connect(stack.address, api_key=stack.key, retry=AT_ONCE) as hasty:
        with pytest.raises(Unavailable) as raised:
            await hasty.documents.get("d" * 48)
    assert raised.value.reason == "PEER_AWAY"
    assert raised.value.retry_after == 1.0
    assert "retrieval" in raised.value.message
    await client.sessions.create()


async def test_a_caller_who_leaves_a_stream_ends_it_behind_the_gateway(
    stack: Stack, client: Maieutic
) -> None:
    stack.conversations.hold = asyncio.Event()
    session = await client.sessions.create()
    stream = client.turns.stream(session.session_id, "one two")
    await anext(stream)
    assert stack.conversations.open_streams == 1
    await stream.aclose()
    await wait_until(lambda: stack.conversations.open_streams == 0)


async def test_a_service_that_stops_breaks_the_stream_as_unavailable(
    stack: Stack, client: Maieutic
) -> None:
    stack.conversations.hold = asyncio.Event()
    session = await client.sessions.create()
    async with Maieutic.connect(stack.address, api_key=stack.key, retry=AT_ONCE) as hasty:
        stream = hasty.turns.stream(session.session_id, "one")
        await anext(stream)
        await stack.session.server.stop(None)
        with pytest.raises(Unavailable):
            await stream.result()


async def test_a_stream_runs_ahead_of_a_stalled_reader_by_a_bounded_amount(
    stack: Stack, client: Maieutic
) -> None:
    """50,000 frames are on offer; a reader of one makes the services send far fewer."""
    stack.conversations.answer = lambda turn_id, text: echo(turn_id, "word " * 50_000)
    session = await client.sessions.create()
    async with client.turns.stream(session.session_id, "go") as stream:
        await anext(stream)
        assert await settled(lambda: stack.conversations.sent) < 10_000
    # The gateway was stuck in writing, not in reading: that, too, ends the stream behind it.
    await wait_until(lambda: stack.conversations.open_streams == 0)


async def settled(count: Callable[[], int]) -> int:
    """Return the count once it has stopped growing for a quarter of a second."""
    last = -1
    while last != count():
        last = count()
        await asyncio.sleep(0.25)
    return last


async def test_a_streams_deadline_is_the_callers(stack: Stack, client: Maieutic) -> None:
    stack.conversations.hold = asyncio.Event()
    session = await client.sessions.create()
    turn = await client.turns.begin(session, "one")
    stream = client.turns.watch(turn.turn_id, timeout=0.5)
    with pytest.raises(MaieuticError) as raised:
        await stream.result()
    assert "goes on" in raised.value.message
    await wait_until(lambda: stack.conversations.open_streams == 0)


async def test_the_gateway_drains_its_streams_when_it_stops(tmp_path: Path) -> None:
    options = ServerOptions(grace=0.5, stream_grace=0.05)
    async with gateway_stack(tmp_path, server=options) as running:
        running.conversations.hold = asyncio.Event()
        client = Maieutic.connect(running.address, api_key=running.key, retry=AT_ONCE)
        session = await client.sessions.create(mode=session_service_pb2.SESSION_MODE_SOCRATIC)
        stream = client.turns.stream(session.session_id, "one")
        await anext(stream)
    with pytest.raises(Unavailable) as raised:
        await stream.result()
    assert raised.value.reason in {"REPLICA_STOPPING", ""}
    await client.close()


async def test_a_file_in_parts_is_passed_on_and_each_part_is_checked(stack: Stack) -> None:
    async with Maieutic.connect(stack.address, api_key=stack.key) as client:
        content = b"Storks nest on chimneys. " * 40_000
        uploaded = [one async for one in client.documents.upload("a.txt", content)]
        assert uploaded[-1].size == len(content)
        with pytest.raises(InvalidArgument) as refused:
            async for _ in client.documents.upload("a.txt", b"text", request_id="not good"):
                pass
    assert [violation.field for violation in refused.value.violations] == ["header.request_id"]


async def test_a_file_that_is_refused_behind_the_gateway_is_refused_with_that_reason(
    stack: Stack, client: Maieutic
) -> None:
    """Parts of it are on their way when the refusal comes, here and there: so many are sent."""
    refusal = errors.ResourceExhausted("no room", reason="LIBRARY_FULL", retry_after=5.0)
    stack.library.no_uploads = refusal
    for _ in range(20):
        with pytest.raises(ResourceExhausted, match="no room") as refused:
            await anext(client.documents.upload("a.txt", b"Storks nest. " * 80_000))
        assert (refused.value.reason, refused.value.retry_after) == ("LIBRARY_FULL", 5.0)
