"""The embedded process is stopped or killed, and started again in the same home."""

import json

import pytest
from redis.asyncio import Redis

from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from maieutic_client import Maieutic
from services.session.adapters import private_valkey
from services.session.adapters.keys import record_key
from tests.backends.process import BackendError
from tests.conversation.backend import Backend, backend, scripted_backend
from tests.conversation.texts import TEA
from tests.faults.steps import HANGING
from tests.waiting import wait_until

PATIENCE = 60.0
ANSWER = "one two three four five six seven eight"
HANGS_ONCE = json.dumps({"script": {"text": ANSWER, **HANGING}})


async def test_a_backend_killed_in_mid_turn_ends_the_turn_once_when_it_is_back() -> None:
    async with scripted_backend() as running:
        async with running.client() as client:
            session = await client.sessions.create()
            async with client.turns.stream(session.session_id, HANGS_ONCE) as stream:
                async for frame in stream:
                    if frame.HasField("delta"):
                        break
                await running.kill9()
        await running.start()
        async with running.client() as client:
            outcome = await client.turns.watch(
                stream.turn_id, cursor=stream.cursor, timeout=PATIENCE
            ).result()
            assert outcome.state == TURN_STATE_COMPLETED
            assert (outcome.text, outcome.attempts) == (ANSWER, 2)
            assert running.calls() == [stream.turn_id] * 2
            assert await texts(client, session.session_id) == [HANGS_ONCE, ANSWER]
            whole = [frame async for frame in client.turns.watch(stream.turn_id)]
            assert [frame.HasField("outcome") for frame in whole].count(True) == 1


async def test_a_restart_and_a_kill_keep_conversations_documents_and_the_key() -> None:
    async with backend() as running:
        key = running.api_key
        async with running.client() as client:
            added = await client.documents.add("tea.md", TEA)
            ids = [added.document.document_id]
            session = await client.sessions.create(title="tea", document_ids=ids)
            await told(client, session.session_id, "How is green tea brewed?")
            before = await texts(client, session.session_id)
            listed = [s.title async for s in client.sessions.list()]
        await running.stop()
        await running.start()
        assert running.api_key == key
        async with running.client() as client:
            assert [s.title async for s in client.sessions.list()] == listed
            assert await texts(client, session.session_id) == before
            again = await client.documents.add("tea.md", TEA)
            assert again.chunks_embedded == 0
            answer = await told(client, session.session_id, "How is black tea brewed?")
            assert "boiling water" in answer
        await running.kill9()
        await running.start()
        async with running.client() as client:
            question = "Please summarise what we discussed."
            summary = await told(client, session.session_id, question)
            assert "How is green tea brewed?" in summary
            assert "How is black tea brewed?" in summary
            assert len(await texts(client, session.session_id)) == 6


async def test_a_session_that_left_the_live_store_is_read_from_the_archive() -> None:
    async with backend(idle="1") as running, running.client() as client:
        session = await client.sessions.create(title="left")
        await told(client, session.session_id, "My cat is called Miso.")
        before = await texts(client, session.session_id)
        said = [message async for message in client.sessions.messages(session)]
        note = await client.notes.add(session, "ask about the dog, too")
        bookmark = await client.bookmarks.add(session, said[-1].message_id, label="the cat")
        await wait_until(lambda: has_left(running, session.session_id), PATIENCE, every=0.1)
        assert [kept async for kept in client.notes.list(session)] == [note]
        assert [kept async for kept in client.bookmarks.list(session)] == [bookmark]
        assert await texts(client, session.session_id) == before
        assert before[0] == "My cat is called Miso."
        assert "Miso" in await told(client, session.session_id, "What is my cat called?")


async def test_a_kill_just_after_an_answer_loses_no_edit_note_or_branch() -> None:
    async with backend() as running:
        async with running.client() as client:
            session = await client.sessions.get_or_create(title="before")
            await told(client, session.session_id, "My cat is called Miso.")
            said = [message async for message in client.sessions.messages(session)]
            branch = await client.sessions.branch(session, said[0].message_id, request_id="b")
            await client.notes.add(session, "kept", request_id="n")
            await client.sessions.update(session, title="after", request_id="u")
            await running.kill9()
        await running.start()
        async with running.client() as client:
            assert (await client.sessions.get_or_create()).session_id == session.session_id
            assert (await client.sessions.get(session)).title == "after"
            # Each request again, as a caller does that has heard no answer.
            await client.notes.add(session, "kept", request_id="n")
            await client.sessions.update(session, title="after", request_id="u")
            again = await client.sessions.branch(session, said[0].message_id, request_id="b")
            assert again.session_id == branch.session_id
            assert [note.text async for note in client.notes.list(session)] == ["kept"]
            await client.sessions.delete(session)
            assert "Miso" in await told(client, branch.session_id, "What is my cat called?")
            statistics = await client.sessions.statistics(branch)
            assert (statistics.message_count, sum(t.count for t in statistics.turns)) == (4, 1)


async def test_a_second_process_in_the_same_home_is_refused_and_harms_nothing() -> None:
    async with backend() as running:
        second = Backend(running.home, log="second.log")
        with pytest.raises(BackendError, match="is in use by another process"):
            await second.start()
        async with running.client() as client:
            await client.sessions.create()


async def told(client: Maieutic, session_id: str, question: str) -> str:
    outcome = await client.turns.stream(session_id, question, timeout=PATIENCE).result()
    assert outcome.state == TURN_STATE_COMPLETED
    return outcome.text


async def texts(client: Maieutic, session_id: str) -> list[str]:
    """Return what was said, oldest first."""
    return [message.text async for message in client.sessions.messages(session_id)][::-1]


async def has_left(running: Backend, session_id: str) -> bool:
    path = private_valkey._socket_path(running.home / "valkey")
    async with Redis.from_url(f"unix://{path}") as redis:
        return not await redis.exists(record_key(session_id))
