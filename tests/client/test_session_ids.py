"""The shapes in which a caller may give a session."""

from types import MappingProxyType
from typing import Any

import pytest

from maieutic.v1 import turn_service_pb2
from maieutic.v1.session_service_pb2 import GetSessionResponse, Session
from maieutic_client import session_id_of
from tests.client.conftest import Served

ID = "s" * 48


@pytest.mark.parametrize(
    "given",
    [
        Session(session_id=ID),
        ID,
        {"id": ID},
        {"session_id": ID},
        {"session_id": ID, "id": ID, "title": "Stars"},
        {"session": ID},
        {"session": Session(session_id=ID)},
        {"session": {"id": ID}},
        {"session": {"session_id": ID}, "id": ID},
        MappingProxyType({"id": ID}),
    ],
)
def test_each_shape_of_a_session_names_it(given: Any) -> None:
    assert session_id_of(given) == ID


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "NoneType"),
        (7, "int"),
        (b"s" * 48, "bytes"),
        ([ID], "list"),
        (GetSessionResponse(), "GetSessionResponse"),
        (turn_service_pb2.Turn(session_id=ID), "Turn"),
        ({}, "no keys"),
        ({"sessionId": ID}, "the keys sessionId"),
        ({"id": 7}, "int under the key 'id'"),
        ({"session_id": None, "id": ID}, "NoneType under the key 'session_id'"),
        ({"session": [ID]}, "list under the key 'session'"),
        ({"session": {"session": {"id": ID}}}, "dict under the key 'session'"),
    ],
)
def test_anything_else_is_an_error_that_says_what_was_given(given: Any, said: str) -> None:
    with pytest.raises(TypeError, match="expected a Session, its id, or a mapping") as error:
        session_id_of(given)
    assert said in str(error.value)


@pytest.mark.parametrize("given", ["", Session(), {"id": ""}, {"session": Session()}])
def test_an_empty_id_is_no_session(given: Any) -> None:
    with pytest.raises(ValueError, match="empty id"):
        session_id_of(given)


def test_a_mapping_that_names_two_sessions_is_refused() -> None:
    with pytest.raises(ValueError, match="session_id, id of the mapping name different sessions"):
        session_id_of({"session_id": ID, "id": "t" * 48})


def test_a_mapping_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["session"] = loop
    with pytest.raises(TypeError):
        session_id_of(loop)


async def test_every_call_of_the_client_takes_every_shape(served: Served) -> None:
    client = served.client
    session = await client.sessions.get(served.session_id)
    for shape in (session, {"id": served.session_id}, {"session": session}):
        assert await client.sessions.get(shape) == session
        turn = await client.turns.begin(shape, "one two")
        assert turn.session_id == served.session_id
        assert (await client.turns.stream(shape, "three").result()).text == "three "
        assert [m async for m in client.sessions.messages(shape)]
        updated = await client.sessions.update(shape, title="T")
        assert updated.session_id == served.session_id
        await client.sessions.touch(shape)
        assert (await client.sessions.statistics(shape)).message_count > 0
        note = await client.notes.add(shape, "remember")
        assert [kept.note_id async for kept in client.notes.list(shape)] == [note.note_id]
        await client.notes.delete(shape, note.note_id)
        messages = [m async for m in client.sessions.messages(shape)]
        bookmark = await client.bookmarks.add(shape, messages[0].message_id, label="here")
        assert [kept async for kept in client.bookmarks.list(shape)] == [bookmark]
        branch = await client.sessions.branch(shape, messages[0].message_id)
        assert branch.parent_session_id == served.session_id
        await client.bookmarks.delete(shape, bookmark.bookmark_id)
        await client.sessions.end(shape)
        session = await client.sessions.get(shape)
    await client.sessions.delete({"session": session})
