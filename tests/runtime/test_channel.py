"""A channel of ours: retries, round robin, and calls that are gRPC's own call objects."""

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text

from services.runtime.channel import open_channel
from services.runtime.errors import NotFound, Unavailable
from services.runtime.server import ServerOptions, serving
from tests.backends.process import free_port
from tests.fakes.name_server import name_server
from tests.runtime.calls import Stub, answering, echo, failure_of, registered
from tests.waiting import wait_until


class Failing:
    """Fails the first calls, then answers; counts them all."""

    def __init__(self, error: Exception, failures: int) -> None:
        self.error = error
        self.failures = failures
        self.calls = 0

    async def __call__(self, request: Text, context: Any) -> Text:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return request


async def test_an_unavailable_peer_is_tried_three_times() -> None:
    twice, always = Failing(Unavailable("away"), 2), Failing(Unavailable("away"), 99)

    async with answering(Unary=twice) as (stub, _):
        assert (await stub.unary(Text(value="x"))).value == "x"
    async with answering(Unary=always) as (stub, _):
        await failure_of(stub.unary(Text()))

    assert (twice.calls, always.calls) == (3, 3)


@pytest.mark.parametrize(
    "error", [Unavailable("overloaded", retry_after=1.0), NotFound("session", "x")], ids=repr
)
async def test_a_caller_that_is_told_when_or_that_it_is_no_use_is_not_retried(
    error: Exception,
) -> None:
    failing = Failing(error, 99)

    async with answering(Unary=failing) as (stub, _):
        await failure_of(stub.unary(Text()))

    assert failing.calls == 1


async def test_retries_of_two_hops_do_not_multiply() -> None:
    failing = Failing(Unavailable("away"), 99)
    middle_calls = 0

    async with answering(Unary=failing) as (far, _):

        async def middle(request: Text, context: Any) -> Text:
            nonlocal middle_calls
            middle_calls += 1
            reply: Text = await far.unary(request)
            return reply

        async with answering(Unary=middle) as (near, _):
            await failure_of(near.unary(Text()))

    assert (middle_calls, failing.calls) == (1, 3)


async def test_calls_go_round_the_replicas_and_leave_one_that_stops() -> None:
    seen: list[str] = []

    def replica(name: str) -> Any:
        async def answer(request: Text, context: Any) -> Text:
            seen.append(name)
            return request

        return registered(Unary=answer)

    async with (
        serving(ServerOptions(), replica("a")) as one,
        serving(ServerOptions(), replica("b")) as two,
        open_channel(f"ipv4:{one.address},{two.address}", service="test") as channel,
    ):
        stub = Stub(channel)

        async def both_answer() -> bool:
            await stub.unary(Text())
            return {"a", "b"} <= set(seen)

        await wait_until(both_answer)
        seen.clear()
        for _ in range(10):
            await stub.unary(Text())
        assert sorted(seen) == ["a"] * 5 + ["b"] * 5
        await two.server.stop(0)
        seen.clear()
        for _ in range(10):
            await stub.unary(Text())
        assert set(seen) == {"a"}


async def test_a_peer_that_comes_back_is_reached_again() -> None:
    async with serving(ServerOptions(), registered(Unary=echo)) as first:
        address = first.address
        channel_of = open_channel(address, service="test")
        channel = await channel_of.__aenter__()
        stub = Stub(channel)
        await stub.unary(Text())
    try:
        assert (await failure_of(stub.unary(Text()))).code() is grpc.StatusCode.UNAVAILABLE
        async with serving(ServerOptions(listen=address), registered(Unary=echo)):

            async def answers() -> bool:
                try:
                    await stub.unary(Text())
                except grpc.aio.AioRpcError:
                    return False
                return True

            await wait_until(answers)
    finally:
        await channel_of.__aexit__(None, None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="needs further loopback addresses")
async def test_replicas_with_new_addresses_are_found_by_their_name() -> None:
    port, replica = free_port(), registered(Unary=echo)
    # What gRPC does by itself takes 30 s.
    soon = 15.0
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(name_server(["127.0.0.2"]))
        target = f"dns://127.0.0.1:{names.port}/session.example:{port}"
        channel = await stack.enter_async_context(open_channel(target, service="test"))
        stub = Stub(channel)
        async with serving(ServerOptions(listen=f"127.0.0.2:{port}"), replica):
            await stub.unary(Text())
            names.addresses = ["127.0.0.3"]
            options = ServerOptions(listen=f"127.0.0.3:{port}")
            await stack.enter_async_context(serving(options, replica))

        async def answers() -> bool:
            try:
                await stub.unary(Text())
            except grpc.aio.AioRpcError:
                return False
            return True

        await wait_until(answers, soon, every=0.1)


async def test_leaving_the_channel_cancels_its_calls() -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def sleep(request: Text, context: Any) -> Text:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return request

    async with serving(ServerOptions(), registered(Unary=sleep)) as server:
        async with open_channel(server.address, service="test") as channel:
            call = Stub(channel).unary(Text())
            await asyncio.wait_for(running.wait(), 5)
        await asyncio.wait_for(cancelled.wait(), 5)
        assert call.cancelled()


async def test_the_caller_s_own_metadata_is_kept() -> None:
    seen: dict[str, Any] = {}

    async def look(request: Text, context: Any) -> Text:
        seen.update(context.invocation_metadata())
        return request

    async with answering(Unary=look) as (stub, _):
        await stub.unary(Text(), metadata=(("x-lane", "long"),))

    assert seen["x-lane"] == "long"
    assert "traceparent" not in seen  # no telemetry runs, so there is nothing to say
