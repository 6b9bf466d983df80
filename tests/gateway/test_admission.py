"""Keys, users, and each tenant's share of what runs at once."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.session_service_pb2_grpc import SessionServiceStub
from maieutic_client import (
    Maieutic,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    RetryPolicy,
    Unauthenticated,
)
from services.gateway.errors import TenantBusy
from services.gateway.model import TenantShares
from tests.fakes.gateway import Stack, gateway_stack
from tests.waiting import wait_until

AT_ONCE = RetryPolicy(give_up_after=0.0)


@pytest.mark.parametrize(
    "header",
    [("authorization", "Bearer {}"), ("authorization", "bearer  {}"), ("x-api-key", "{}")],
)
async def test_a_key_may_come_in_either_header(stack: Stack, header: tuple[str, str]) -> None:
    metadata = [(header[0], header[1].format(stack.key))]
    async with grpc.aio.insecure_channel(stack.address) as channel:
        await SessionServiceStub(channel).ListSessions(pb.ListSessionsRequest(), metadata=metadata)


async def test_health_needs_no_key(stack: Stack) -> None:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="maieutic.v1.TurnService")
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_withdrawn_key_is_refused(stack: Stack, client: Maieutic) -> None:
    await client.sessions.create()
    stack.keys_file.write_text("")
    with pytest.raises(Unauthenticated, match="unknown or withdrawn"):
        await client.sessions.create()


async def test_a_backend_acts_for_the_user_it_names(stack: Stack) -> None:
    async with Maieutic.connect(
        stack.address, api_key=stack.backend_key, user="bea@example.com"
    ) as backend:
        assert (await backend.sessions.create()).user_id == "bea@example.com"
    async with Maieutic.connect(stack.address, api_key=stack.backend_key) as backend:
        assert [session async for session in backend.sessions.list()] == []


async def test_a_users_key_names_nobody_else(stack: Stack) -> None:
    async with Maieutic.connect(stack.address, api_key=stack.key, user="ann") as ann:
        assert (await ann.sessions.create()).user_id == "ann"
    async with Maieutic.connect(stack.address, api_key=stack.key, user="bob") as ann:
        with pytest.raises(PermissionDenied, match="x-maieutic-user"):
            await ann.sessions.create()


async def test_a_tenant_has_its_share_of_streams_and_no_more(tmp_path: Path) -> None:
    async with gateway_stack(tmp_path, streams_per_tenant=2) as stack:
        stack.conversations.hold = asyncio.Event()
        async with (
            Maieutic.connect(stack.address, api_key=stack.key, retry=AT_ONCE) as client,
            Maieutic.connect(stack.address, api_key=stack.stranger_key) as stranger,
        ):
            session = await client.sessions.create()
            streams = [client.turns.stream(session.session_id, "one") for _ in range(3)]
            await anext(streams[0])
            await anext(streams[1])
            with pytest.raises(ResourceExhausted) as raised:
                await anext(streams[2])
            assert raised.value.reason == "TENANT_BUSY"
            assert raised.value.retry_after == 1.0

            # Another tenant, and this one's unary calls, have shares of their own.
            other = await stranger.sessions.create()
            await anext(stranger.turns.stream(other.session_id, "one"))
            await client.sessions.get(session.session_id)

            await streams[0].aclose()
            await wait_until(lambda: stack.conversations.open_streams == 2)
            await anext(client.turns.stream(session.session_id, "one"))


async def test_a_share_is_given_back_however_the_call_ends(tmp_path: Path) -> None:
    async with (
        gateway_stack(tmp_path, calls_per_tenant=1) as stack,
        Maieutic.connect(stack.address, api_key=stack.key, retry=AT_ONCE) as client,
    ):
        for _ in range(3):
            await client.sessions.create()
            with pytest.raises(NotFound):
                await client.sessions.get("s" * 48)


def test_shares_are_counted_for_each_tenant_and_kind() -> None:
    shares = TenantShares(calls=1, streams=1)
    with (
        shares.one("acme", streaming=False),
        shares.one("acme", streaming=True),
        shares.one("zenith", streaming=False),
    ):
        with pytest.raises(TenantBusy), shares.one("acme", streaming=False):
            pass
        with pytest.raises(TenantBusy), shares.one("acme", streaming=True):
            pass
    with shares.one("acme", streaming=False):
        pass


def test_a_place_that_is_given_back_is_one_place() -> None:
    shares = TenantShares(calls=2, streams=2)
    with shares.one("acme", streaming=True):
        with shares.one("acme", streaming=True):
            pass
        again = shares.one("acme", streaming=True)
        with again, pytest.raises(TenantBusy), shares.one("acme", streaming=True):
            pass
