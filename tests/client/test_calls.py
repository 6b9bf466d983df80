"""Unary calls: one request id for all tries of a call, typed errors, patience with an end."""

import asyncio
from contextlib import AbstractAsyncContextManager

import grpc
import pytest

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from maieutic_client import (
    AlreadyExists,
    InvalidArgument,
    Maieutic,
    RetryPolicy,
    RevisionMismatch,
    Unauthenticated,
    Unavailable,
)
from services.runtime.errors import InvalidArgument as InvalidHere, Unavailable as AwayHere
from services.runtime.server import RunningServer, ServerOptions, serving
from tests.client.conftest import EAGER, Served
from tests.fakes.conversations import Context, Conversations, FakeSessions


class Flaky(FakeSessions):
    """Does the work, and then fails to answer as often as told."""

    def __init__(self, state: Conversations, failures: int) -> None:
        super().__init__(state)
        self.failures = failures
        self.request_ids: list[str] = []

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        self.request_ids.append(request.request_id)
        answer = await super().CreateSession(request, context)
        if len(self.request_ids) <= self.failures:
            raise AwayHere("the answer is lost")
        return answer

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Context
    ) -> pb.GetSessionResponse:
        raise InvalidHere.fields({"session_id": "is odd", "other": "too"})


def serving_flaky(flaky: Flaky) -> AbstractAsyncContextManager[RunningServer]:
    def register(server: grpc.aio.Server) -> list[str]:
        add_SessionServiceServicer_to_server(flaky, server)
        return ["maieutic.v1.SessionService"]

    return serving(ServerOptions(grace=0.1), register)


async def test_a_call_whose_answer_is_lost_is_made_again_with_the_same_request_id() -> None:
    flaky = Flaky(Conversations(owner=lambda: ("acme", "ann")), failures=3)
    async with (
        serving_flaky(flaky) as server,
        Maieutic.connect(server.address, api_key="mk_any", retry=EAGER) as client,
    ):
        await client.sessions.create(title="once")
        assert len([session async for session in client.sessions.list()]) == 1
    assert len(flaky.request_ids) == 4
    assert len(set(flaky.request_ids)) == 1


async def test_two_calls_have_two_request_ids() -> None:
    flaky = Flaky(Conversations(owner=lambda: ("acme", "ann")), failures=0)
    async with (
        serving_flaky(flaky) as server,
        Maieutic.connect(server.address, api_key="mk_any") as client,
    ):
        first, second = await client.sessions.create(), await client.sessions.create()
    assert first.session_id != second.session_id


async def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(Conversations(owner=lambda: ("acme", "ann")), failures=10_000)
    patient = RetryPolicy(first_delay=0.001, longest_delay=0.001, give_up_after=10.0)
    loop = asyncio.get_running_loop()
    clock = loop.time
    # With the third try time passes that is too long for this policy, and not for the whole call.
    monkeypatch.setattr(loop, "time", lambda: clock() + 15.0 * (len(flaky.request_ids) > 2))
    async with (
        serving_flaky(flaky) as server,
        Maieutic.connect(server.address, api_key="mk_any", retry=patient) as client,
    ):
        with pytest.raises(Unavailable, match="the answer is lost"):
            await client.sessions.create()
    assert len(flaky.request_ids) == 3


async def test_a_stale_write_is_not_tried_again_and_says_the_revision(served: Served) -> None:
    session = await served.client.sessions.update(served.session_id, title="One")
    await served.client.sessions.update(session, title="Two", expected_revision=session.revision)
    with pytest.raises(RevisionMismatch) as error:
        await served.client.sessions.update(
            session, title="Three", expected_revision=session.revision
        )
    assert error.value.current_revision == session.revision + 1
    assert (await served.client.sessions.get(session)).title == "Two"


async def test_wrong_fields_are_listed_by_the_error() -> None:
    flaky = Flaky(Conversations(), failures=0)
    async with (
        serving_flaky(flaky) as server,
        Maieutic.connect(server.address, api_key="mk_any") as client,
    ):
        with pytest.raises(InvalidArgument) as raised:
            await client.sessions.get("odd")
    found = {violation.field: violation.description for violation in raised.value.violations}
    assert found == {"session_id": "is odd", "other": "too"}
    assert isinstance(raised.value.__cause__, grpc.aio.AioRpcError)


async def test_a_request_id_for_another_request_is_taken() -> None:
    flaky = Flaky(Conversations(owner=lambda: ("acme", "ann")), failures=0)
    async with (
        serving_flaky(flaky) as server,
        Maieutic.connect(server.address, api_key="mk_any") as client,
    ):
        await client.sessions.create(title="one", request_id="r")
        with pytest.raises(AlreadyExists) as raised:
            await client.sessions.create(title="two", request_id="r")
    assert raised.value.reason == "REQUEST_ID_TAKEN"


async def test_no_gateway_at_all_is_unavailable() -> None:
    at_once = RetryPolicy(give_up_after=0.0)
    async with Maieutic.connect("127.0.0.1:1", api_key="mk_any", retry=at_once) as client:
        with pytest.raises(Unavailable) as raised:
            await client.sessions.create()
    assert not raised.value.from_service


@pytest.mark.parametrize("text", ["", "mk_\u2026", "mk_1\n", " mk_1", "J\u00fcrgen", "a\0b"])
def test_a_key_or_a_user_that_no_call_can_carry_is_refused_at_once(text: str) -> None:
    with pytest.raises(Unauthenticated, match="API key"):
        Maieutic.connect("127.0.0.1:1", api_key=text)
    with pytest.raises(InvalidArgument) as wrong:
        Maieutic.connect("127.0.0.1:1", api_key="mk_1", user=text)
    assert [violation.field for violation in wrong.value.violations] == ["user"]
