"""Every bad input, refused by the backend itself and not by stand-ins behind the gateway."""

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from tests.conversation.backend import Backend
from tests.conversation.texts import TEA
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

pytestmark = pytest.mark.asyncio(loop_scope="package")

DELETE_DOCUMENT = "/maieutic.v1.DocumentService/DeleteDocument"
GET_DOCUMENT = "/maieutic.v1.DocumentService/GetDocument"
THINGS = frozenset({"session_id", "turn_id", "document_id"})
ABOUT_A_THING = [
    name
    for name, method in METHODS.items()
    if THINGS & {field.name for field in method.input_type.fields} and name != DELETE_DOCUMENT
]


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def things(shared: Backend) -> AsyncIterator[Api]:
    """Things that the refused requests leave as they are."""
    async with grpc.aio.insecure_channel(shared.address) as channel:
        yield await made(shared, channel)


@pytest.mark.parametrize("case", cases(), ids=str)
async def test_a_wrong_request_is_refused_and_its_field_named(things: Api, case: Case) -> None:
    answer = await answer_to(things, case.method, request_of(things, case))
    assert answer.code is case.code, answer
    assert answer.reason
    if case.code is INVALID:
        assert case.field in answer.tops
        assert case.field in answer.message
    else:
        assert case.field.removesuffix("s").removesuffix("_id") in answer.message


@pytest.mark.parametrize("method", METHODS)
async def test_the_valid_request_that_the_cases_are_made_from_is_answered(
    shared: Backend, things: Api, method: str
) -> None:
    # What ends a thing needs its own, and what begins a turn a session in which none runs.
    alone = method.endswith(("/EndSession", "/BeginTurn", "/StreamTurn")) or "/Delete" in method
    api = await made(shared, things.channel) if alone else things
    answer = await answer_to(api, method, valid_request(api, method).SerializeToString())
    assert answer.code is grpc.StatusCode.OK, answer


@pytest.mark.parametrize("method", ABOUT_A_THING)
async def test_another_tenants_thing_does_not_exist(things: Api, method: str) -> None:
    raw = valid_request(things, method).SerializeToString()
    answer = await answer_to(things, method, raw, key=things.stranger_key)
    assert answer.code is NOT_FOUND, answer


async def test_another_tenants_document_is_not_deleted(things: Api) -> None:
    """What is not there is deleted already, so that the answer tells a stranger nothing."""
    raw = valid_request(things, DELETE_DOCUMENT).SerializeToString()
    answer = await answer_to(things, DELETE_DOCUMENT, raw, key=things.stranger_key)
    assert answer.code is grpc.StatusCode.OK
    kept = valid_request(things, GET_DOCUMENT).SerializeToString()
    assert (await answer_to(things, GET_DOCUMENT, kept)).code is grpc.StatusCode.OK


@pytest.mark.parametrize("key", ["", "mk_unknown", "x" * 4000])
@pytest.mark.parametrize("method", METHODS)
async def test_a_bad_key_is_refused(things: Api, method: str, key: str) -> None:
    answer = await answer_to(things, method, b"", key=key)
    assert answer.code is UNAUTHENTICATED, answer


async def made(backend: Backend, channel: grpc.aio.Channel) -> Api:
    async with backend.client() as client:
        session = await client.sessions.create()
        text = f"{TEA}\n{session.session_id}\n"  # its own document, which a test may delete
        document = (await client.documents.add("tea.md", text)).document
        await client.documents.attach(SOURCES, [document.document_id])
        stream = client.turns.stream(session.session_id, "How hot is tea?")
        await stream.result()
        messages = [message async for message in client.sessions.messages(session)]
    return Api(
        channel=channel,
        key=backend.api_key,
        stranger_key=backend.stranger_key,
        session_id=session.session_id,
        turn_id=stream.turn_id,
        message_id=messages[0].message_id,
        document_id=document.document_id,
    )
