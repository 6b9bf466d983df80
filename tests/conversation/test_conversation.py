"""What a conversation looks like from outside."""

import pytest

from maieutic.v1.document_service_pb2 import DOCUMENT_STATE_READY
from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnOutcome
from maieutic_client import Maieutic, NotFound
from tests.conversation.texts import BREAD, TEA

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE = 30.0


async def test_an_answer_over_documents_cites_the_passage_it_quotes(client: Maieutic) -> None:
    added = await client.documents.add("tea.md", TEA)
    document = added.document
    assert document.state == DOCUMENT_STATE_READY
    session = await client.sessions.create(document_ids=[document.document_id])

    outcome = await asked(client, session.session_id, "At how many degrees is green tea brewed?")

    assert outcome.state == TURN_STATE_COMPLETED
    assert "75 degrees" in outcome.text
    assert "[1]" in outcome.text
    citation = outcome.citations[0]
    assert citation.number == 1
    assert citation.document_id == document.document_id
    assert citation.document_name == "tea.md"
    assert "75 degrees" in citation.quote
    assert citation.quote in TEA
    answer = await anext(client.sessions.messages(session.session_id))
    assert answer.citations == outcome.citations


async def test_a_stream_tells_of_acceptance_search_start_text_and_outcome_in_this_order(
    client: Maieutic,
) -> None:
    document = (await client.documents.add("tea.md", TEA)).document
    session = await client.sessions.create(document_ids=[document.document_id])
    async with client.turns.stream(session.session_id, "How is tea stored?") as stream:
        frames = [frame async for frame in stream]
    kinds = [frame.WhichOneof("event") for frame in frames]
    assert kinds[:3] == ["accepted", "started", "notice"]
    assert frames[2].notice.code == "SEARCHING"
    assert set(kinds[3:-1]) == {"delta"}
    assert kinds[-1] == "outcome"
    assert "".join(frame.delta.text for frame in frames) == frames[-1].outcome.text


async def test_documents_that_are_not_of_the_session_are_not_drawn_from(client: Maieutic) -> None:
    tea = (await client.documents.add("tea.md", TEA)).document
    bread = (await client.documents.add("bread.md", BREAD)).document
    session = await client.sessions.create(document_ids=[bread.document_id])
    outcome = await asked(client, session.session_id, "For how many minutes does green tea brew?")
    assert "75 degrees" not in outcome.text
    assert tea.document_id not in {citation.document_id for citation in outcome.citations}


async def test_an_answer_without_documents_says_so(client: Maieutic) -> None:
    session = await client.sessions.create()
    outcome = await asked(client, session.session_id, "How hot is the sun?")
    assert "No documents support this answer" in outcome.text
    assert list(outcome.citations) == []


async def test_a_question_sees_what_was_said_one_request_ago(client: Maieutic) -> None:
    session = await client.sessions.create()
    await asked(client, session.session_id, "My cat is called Miso.")
    outcome = await asked(client, session.session_id, "What is my cat called?")
    assert "Miso" in outcome.text


async def test_a_summary_of_the_conversation_has_its_topics(client: Maieutic) -> None:
    topics = ["How is rye bread baked?", "Who invented paper?", "What is a fjord?"]
    session = await client.sessions.create()
    for topic in topics:
        await asked(client, session.session_id, topic)
    outcome = await asked(client, session.session_id, "Please summarise our conversation.")
    for topic in topics:
        assert topic in outcome.text


async def test_messages_come_newest_first_in_pages_without_gap_or_double(client: Maieutic) -> None:
    session = await client.sessions.create()
    for number in range(12):
        await asked(client, session.session_id, f"question {number}")
    messages = [m async for m in client.sessions.messages(session.session_id, page_size=5)]
    assert [m.position for m in messages] == list(range(24, 0, -1))
    assert {m.author for m in messages[::2]} == {AUTHOR_AGENT}
    assert [m.text for m in messages[1::2]] == [f"question {n}" for n in range(11, -1, -1)]
    assert {m.author for m in messages[1::2]} == {AUTHOR_USER}
    assert (await client.sessions.get(session.session_id)).message_count == 24


async def test_sessions_are_listed_newest_first_until_they_are_deleted(client: Maieutic) -> None:
    titles = ["first", "second", "third"]
    made = [await client.sessions.create(title=title) for title in titles]
    listed = [s.session_id async for s in client.sessions.list(page_size=2)]
    assert listed[:3] == [session.session_id for session in reversed(made)]

    await asked(client, made[1].session_id, "Does anybody listen?")
    await client.sessions.delete(made[1].session_id)
    await client.sessions.delete(made[1].session_id)  # again: it stays deleted

    listed = [s.session_id async for s in client.sessions.list(page_size=2)]
    assert listed[:2] == [made[2].session_id, made[0].session_id]
    with pytest.raises(NotFound):
        await client.sessions.get(made[1].session_id)
    with pytest.raises(NotFound):
        await asked(client, made[1].session_id, "And now?")


async def test_creating_again_with_the_same_request_id_gives_the_same_session(
    client: Maieutic,
) -> None:
    first = await client.sessions.create(title="one", request_id="create-once")
    again = await client.sessions.create(title="one", request_id="create-once")
    assert again.session_id == first.session_id


async def test_a_document_added_again_is_embedded_once(client: Maieutic) -> None:
    text = f"{TEA}\nThis copy is about deduplication.\n"
    first = await client.documents.add("tea-twice.md", text)
    again = await client.documents.add("tea-twice.md", text)
    assert first.chunks_embedded > 0
    assert (again.chunks_embedded, again.chunks_reused) == (0, first.document.chunk_count)
    assert again.document.document_id == first.document.document_id
    names = [d.document_id async for d in client.documents.list()]
    assert names.count(first.document.document_id) == 1


async def test_a_search_finds_the_passage_and_a_deleted_document_is_found_no_more(
    client: Maieutic,
) -> None:
    text = "# Lighthouses\n\nThe lighthouse of Alexandria stood on the island of Pharos.\n"
    document = (await client.documents.add("lighthouses.md", text)).document
    (best, *_) = await client.documents.search("the lighthouse of Alexandria")
    assert best.document_id == document.document_id
    assert "Pharos" in best.text

    await client.documents.delete(document.document_id)

    found = await client.documents.search("the lighthouse of Alexandria")
    assert document.document_id not in {passage.document_id for passage in found}
    with pytest.raises(NotFound):
        await client.documents.get(document.document_id)


async def asked(client: Maieutic, session_id: str, question: str) -> TurnOutcome:
    return await client.turns.stream(session_id, question, timeout=PATIENCE).result()
