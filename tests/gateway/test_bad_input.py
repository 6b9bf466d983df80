"""No request, however wrong, is answered INTERNAL; what is wrong is named."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from maieutic.v1 import session_service_pb2
from maieutic_client import Maieutic
from tests.fakes.gateway import Stack, gateway_stack
from tests.gateway.bad_input import (
    INVALID,
    METHODS,
    NOT_FOUND,
    SOURCES,
    UNAUTHENTICATED,
    Api,
    Case,
    answer_to,
    cases,
    request_of,
    valid_request,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREATE_SESSION = "/maieutic.v1.SessionService/CreateSession"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One gateway for all requests that are refused: they change nothing."""
    async with gateway_stack(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(stack: Stack) -> AsyncIterator[Api]:
    async with filled(stack) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def own_api(tmp_path: Path) -> AsyncIterator[Api]:
    """For a request that changes what it is about."""
    async with gateway_stack(tmp_path) as running, filled(running) as found:
        yield found


@asynccontextmanager
async def filled(stack: Stack) -> AsyncIterator[Api]:
    """Make what the requests name."""
    async with Maieutic.connect(stack.address, api_key=stack.key) as client:
        session = await client.sessions.create()
        turn = await client.turns.begin(session.session_id, "one two")
        messages = [message async for message in client.sessions.messages(session)]
        document = (await client.documents.add("facts.md", "some facts")).document
        await client.documents.attach(SOURCES, [document.document_id])
    async with grpc.aio.insecure_channel(stack.address) as channel:
        yield Api(
            channel=channel,
            key=stack.key,
            stranger_key=stack.stranger_key,
            session_id=session.session_id,
            turn_id=turn.turn_id,
            message_id=messages[0].message_id,
            document_id=document.document_id,
        )


@pytest.mark.parametrize("method", METHODS)
async def test_the_valid_request_that_the_cases_are_made_from_is_answered(
    own_api: Api, method: str
) -> None:
    answer = await answer_to(own_api, method, valid_request(own_api, method).SerializeToString())
    assert answer.code is grpc.StatusCode.OK, answer


@pytest.mark.parametrize("case", cases(), ids=str)
async def test_a_wrong_request_is_refused_and_its_field_named(api: Api, case: Case) -> None:
    answer = await answer_to(api, case.method, request_of(api, case))
    assert answer.code is case.code, answer
    assert answer.reason
    if case.code is INVALID:
        assert case.field in answer.tops
        assert case.field in answer.message
    else:
        assert case.field.removesuffix("s").removesuffix("_id") in answer.message


async def test_every_wrong_field_is_reported_at_once_and_each_once(api: Api) -> None:
    message = session_service_pb2.CreateSessionRequest(
        request_id="a b" * 100, title="t" * 201, metadata={"": ""}, document_ids=["x"]
    )
    message.mode = 99  # type: ignore[assignment] # no mode there is
    answer = await answer_to(api, CREATE_SESSION, message.SerializeToString())
    assert sorted(answer.fields) == [
        "document_ids[0]",
        'metadata[""]',
        "mode",
        "request_id",
        "title",
    ]


async def test_hundreds_of_wrong_fields_are_answered_with_the_first_few(api: Api) -> None:
    message = session_service_pb2.CreateSessionRequest(
        request_id="r",
        document_ids=["é" * 200] * 100,
        metadata={f"é{n}" * 90: "" for n in range(100)},
    )
    answer = await answer_to(api, CREATE_SESSION, message.SerializeToString())
    assert answer.code is INVALID
    assert len(answer.fields) == 10
    assert "more fields are wrong" in answer.message


async def test_hundreds_of_unknown_documents_are_answered_with_the_first_few(api: Api) -> None:
    unknown = [f"{number:064}" for number in range(100)]
    message = session_service_pb2.CreateSessionRequest(request_id="r", document_ids=unknown)
    answer = await answer_to(api, CREATE_SESSION, message.SerializeToString())
    assert answer.code is NOT_FOUND
    assert answer.fields[:2] == ["document_ids[0]", "document_ids[1]"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_without_a_key_is_told_what_to_send(api: Api, method: str) -> None:
    answer = await answer_to(api, method, b"\xff", key="")
    assert answer.code is UNAUTHENTICATED
    assert "authorization: Bearer mk_" in answer.message


@pytest.mark.parametrize("key", ["mk_unknown", "x" * 4000, "mk_ "])
async def test_a_bad_key_is_refused_before_the_request_is_looked_at(api: Api, key: str) -> None:
    answer = await answer_to(api, "/maieutic.v1.SessionService/GetSession", b"\xff", key=key)
    assert answer.code is UNAUTHENTICATED
    assert answer.reason == "UNKNOWN_API_KEY"


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("/maieutic.v1.SessionService/GetSession", "session"),
        ("/maieutic.v1.SessionService/UpdateSession", "session"),
        ("/maieutic.v1.SessionService/EndSession", "session"),
        ("/maieutic.v1.SessionService/TouchSession", "session"),
        ("/maieutic.v1.SessionService/ListMessages", "session"),
        ("/maieutic.v1.SessionService/BranchSession", "session"),
        ("/maieutic.v1.SessionService/GetSessionStatistics", "session"),
        ("/maieutic.v1.SessionService/WatchSession", "session"),
        ("/maieutic.v1.SessionService/AddNote", "session"),
        ("/maieutic.v1.SessionService/ListNotes", "session"),
        ("/maieutic.v1.SessionService/DeleteNote", "session"),
        ("/maieutic.v1.SessionService/AddBookmark", "session"),
        ("/maieutic.v1.SessionService/ListBookmarks", "session"),
        ("/maieutic.v1.SessionService/DeleteBookmark", "session"),
        ("/maieutic.v1.TurnService/StreamTurn", "session"),
        ("/maieutic.v1.TurnService/BeginTurn", "session"),
        ("/maieutic.v1.TurnService/WatchTurn", "turn"),
        ("/maieutic.v1.TurnService/GetTurn", "turn"),
        ("/maieutic.v1.TurnService/CancelTurn", "turn"),
        ("/maieutic.v1.DocumentService/GetDocument", "document"),
    ],
)
async def test_another_tenants_thing_does_not_exist(api: Api, method: str, kind: str) -> None:
    raw = valid_request(api, method).SerializeToString()
    answer = await answer_to(api, method, raw, key=api.stranger_key)
    assert answer.code is NOT_FOUND
    assert kind in answer.message


async def test_a_session_over_another_tenants_document_is_refused(api: Api) -> None:
    message = valid_request(api, CREATE_SESSION)
    message.document_ids.append(api.document_id)  # type: ignore[attr-defined]
    answer = await answer_to(api, CREATE_SESSION, message.SerializeToString(), key=api.stranger_key)
    assert answer.code is NOT_FOUND
    assert answer.fields == ["document_ids[0]"]


@pytest.mark.parametrize("user", ["with space", "u" * 129, ""])
async def test_a_user_that_cannot_be_one_is_named(api: Api, stack: Stack, user: str) -> None:
    answer = await answer_to(
        api,
        "/maieutic.v1.SessionService/ListSessions",
        b"",
        ("x-maieutic-user", user),
        key=stack.backend_key,
    )
    assert answer.code is INVALID
    assert answer.fields == ["x-maieutic-user"]


async def test_a_request_beyond_the_message_size_is_refused_by_the_transport(api: Api) -> None:
    answer = await answer_to(
        api, "/maieutic.v1.DocumentService/AddDocument", b"\x22" + b"a" * (5 * 1024 * 1024)
    )
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_method_is_unimplemented(api: Api) -> None:
    answer = await answer_to(api, "/maieutic.v1.SessionService/Explode", b"")
    assert answer.code is grpc.StatusCode.UNIMPLEMENTED
