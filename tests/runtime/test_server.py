"""A server of ours: the four shapes of a call, cancellation, deadlines, draining, health."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.runtime import deadline
from services.runtime.channel import ChannelOptions, open_channel
from services.runtime.errors import PermissionDenied, from_rpc
from services.runtime.interceptors import Answer, Call
from services.runtime.server import InsecureListener, ServerOptions, is_loopback, serving
from tests.runtime.calls import SERVICE, Stub, answering, echo, failure_of, registered
from tests.waiting import wait_until

MORE_PINGS_SECONDS = 5
"""gRPC pings once a second at most, and tells a client to be calm at the third ping."""

ROUNDING = 0.1
"""gRPC rounds the seconds that it sends up, by some hundredths."""


class Sleeper:
    """Handlers that never answer, and tell whether they run and how they ended."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def unary(self, request: Text, context: Any) -> Text:
        await self._sleep()
        return request

    async def stream(self, request: Text, context: Any) -> AsyncIterator[Text]:
        yield request
        await self._sleep()

    async def chat(self, requests: Any, context: Any) -> AsyncIterator[Text]:
        async for request in requests:
            yield request
            await self._sleep()

    async def _sleep(self) -> None:
        self.running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def count(request: Text, context: Any) -> AsyncIterator[Text]:
    for number in range(3):
        yield Text(value=f"{request.value}{number}")


async def join(requests: Any, context: Any) -> Text:
    return Text(value="".join([request.value async for request in requests]))


async def chat(requests: Any, context: Any) -> AsyncIterator[Text]:
    async for request in requests:
        yield Text(value=request.value.upper())


async def write_three(request: Text, context: Any) -> None:
    for number in range(3):
        await context.write(Text(value=str(number)))


async def test_all_four_shapes_of_a_call_work() -> None:
    handlers: dict[str, Any] = {"Unary": echo, "Stream": count, "Collect": join, "Chat": chat}
    words = [Text(value="a"), Text(value="b")]

    async with answering(**handlers) as (stub, _):
        assert (await stub.unary(Text(value="x"))).value == "x"
        assert [m.value async for m in stub.stream(Text(value="n"))] == ["n0", "n1", "n2"]
        assert (await stub.collect(iter(words))).value == "ab"
        assert [m.value async for m in stub.chat(iter(words))] == ["A", "B"]


async def test_a_chat_can_be_written_and_read_message_by_message() -> None:
    async with answering(Chat=chat) as (stub, _):
        call = stub.chat()
        for word in ("a", "b"):
            await call.write(Text(value=word))
            assert (await call.read()).value == word.upper()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_handler_may_write_its_stream_instead_of_yielding_it() -> None:
    async with answering(Stream=write_three) as (stub, _):
        assert [m.value async for m in stub.stream(Text())] == ["0", "1", "2"]


async def test_a_stream_that_fails_gives_what_came_before_and_then_the_error() -> None:
    async def fail(request: Text, context: Any) -> AsyncIterator[Text]:
        yield request
        raise PermissionDenied("enough")

    async with answering(Stream=fail) as (stub, _):
        call = stub.stream(Text(value="x"))
        assert (await call.read()).value == "x"
        error = await failure_of(call.read())

    assert isinstance(from_rpc(error), PermissionDenied)


@pytest.mark.parametrize("method", ["unary", "stream", "chat"])
async def test_a_cancelled_call_cancels_its_handler(method: str) -> None:
    sleeper = Sleeper()
    handlers: Any = {"Unary": sleeper.unary, "Stream": sleeper.stream, "Chat": sleeper.chat}

    async with answering(**handlers) as (stub, _):
        request = iter([Text()]) if method == "chat" else Text()
        call = getattr(stub, method)(request)
        await asyncio.wait_for(sleeper.running.wait(), 5)
        call.cancel()
        await asyncio.wait_for(sleeper.cancelled.wait(), 5)
        assert await call.code() is grpc.StatusCode.CANCELLED


async def test_cancelling_the_task_that_awaits_a_call_cancels_the_handler() -> None:
    sleeper = Sleeper()

    async with answering(Unary=sleeper.unary) as (stub, _):
        task = asyncio.ensure_future(_awaited(stub.unary(Text())))
        await asyncio.wait_for(sleeper.running.wait(), 5)
        task.cancel()
        await asyncio.wait_for(sleeper.cancelled.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await task


async def _awaited(call: Any) -> Any:
    return await call


async def test_a_stream_s_clean_up_runs_when_the_caller_leaves_while_it_is_sent() -> None:
    closed = asyncio.Event()

    async def flood(request: Text, context: Any) -> AsyncIterator[Text]:
        try:
            while True:
                yield Text(value="x" * 50_000)  # soon fills the window, so it waits in a write
        finally:
            closed.set()

    async with answering(Stream=flood) as (stub, _):
        call = stub.stream(Text())
        await call.read()
        call.cancel()
        await asyncio.wait_for(closed.wait(), 5)


async def test_what_is_left_of_a_deadline_travels_over_two_hops() -> None:
    left: dict[str, float | None] = {}

    async def last(request: Text, context: Any) -> Text:
        left["last"] = deadline.remaining()
        return request

    async with answering(Unary=last, client={"timeout": None}) as (far, _):

        async def middle(request: Text, context: Any) -> Text:
            left["middle"] = deadline.remaining()
            reply: Text = await far.unary(request)
            return reply

        async with answering(Unary=middle) as (near, _):
            await near.unary(Text(), timeout=30)
            far_below = left.copy()
            await near.unary(Text(), timeout=None)

    assert far_below["middle"] is not None
    assert far_below["last"] is not None
    assert far_below["middle"] <= 30 + ROUNDING
    assert far_below["last"] <= 30 + ROUNDING
    assert left["middle"] is not None
    assert left["middle"] <= 5 + ROUNDING  # a unary call without a timeout gets the channel's


async def test_a_deadline_that_passes_downstream_is_the_callers_deadline() -> None:
    sleeper = Sleeper()

    async with answering(Unary=sleeper.unary) as (far, _):

        async def middle(request: Text, context: Any) -> Text:
            reply: Text = await far.unary(request, timeout=60)
            return reply

        async with answering(Unary=middle) as (near, _):
            while not sleeper.running.is_set():  # the deadline may pass on the way
                error = await failure_of(near.unary(Text(), timeout=0.2))
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        await asyncio.wait_for(sleeper.cancelled.wait(), 5)


async def test_a_stream_has_no_deadline_unless_the_caller_gave_one() -> None:
    async def left(request: Text, context: Any) -> AsyncIterator[Text]:
        yield Text(value=str(deadline.remaining()))

    async with answering(Stream=left) as (stub, _):
        assert (await stub.stream(Text()).read()).value == "None"
        assert float((await stub.stream(Text(), timeout=9).read()).value) <= 9 + ROUNDING
        with deadline.within(8):
            assert float((await stub.stream(Text(), timeout=9).read()).value) <= 8 + ROUNDING


async def test_stopping_lets_a_running_call_finish_and_refuses_new_ones() -> None:
    running, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Text, context: Any) -> Text:
        running.set()
        await finish.wait()
        return request

    async with open_channel_later() as dial:
        async with serving(ServerOptions(grace=30), registered(Unary=slow)) as server:
            stub = Stub(await dial(server.address))
            call = stub.unary(Text(value="x"), timeout=30)
            await running.wait()
            stopping = asyncio.create_task(_left_after(finish, stub))
        await stopping

        assert (await call).value == "x"


async def _left_after(finish: asyncio.Event, stub: Stub) -> None:
    """Wait until the server refuses calls, then let the running one finish."""

    async def refused() -> bool:
        try:
            await stub.unary(Text(), timeout=0.1)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    await wait_until(refused)
    finish.set()


@asynccontextmanager
async def open_channel_later() -> AsyncIterator[Any]:
    """Give a `dial(address)` whose channel outlives the server that it dials."""
    channels: list[Any] = []

    async def dial(address: str) -> grpc.aio.Channel:
        opened = open_channel(address, service="test")
        channels.append(opened)
        return await opened.__aenter__()

    yield dial
    for channel in channels:
        await channel.__aexit__(None, None, None)


async def test_main_s_wait_ends_by_cancellation_and_the_running_call_still_finishes() -> None:
    running, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Text, context: Any) -> Text:
        running.set()
        await finish.wait()
        return request

    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with serving(ServerOptions(grace=30), registered(Unary=slow)) as server:
            address.set_result(server.address)
            await server.wait()

    task = asyncio.create_task(main())
    async with open_channel(await address, service="test") as channel:
        call = Stub(channel).unary(Text(value="x"), timeout=30)
        await running.wait()
        task.cancel()
        await asyncio.sleep(0)
        finish.set()
        assert (await call).value == "x"
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(("least", "lives"), [(0.01, True), (10.0, False)])
async def test_a_silent_stream_outlives_the_pings_that_the_server_permits(
    least: float, *, lives: bool
) -> None:
    serve = ServerOptions(least_ping_interval=least)
    async with serving(serve, registered(Stream=Sleeper().stream)) as server:
        options = ChannelOptions(keepalive=0.05)
        async with open_channel(server.address, service="test", options=options) as channel:
            call = Stub(channel).stream(Text(value="x"))
            assert (await call.read()).value == "x"
            reading = asyncio.ensure_future(call.read())
            await asyncio.wait([reading], timeout=MORE_PINGS_SECONDS if lives else 30)
            assert reading.done() is not lives
            reading.cancel()


async def test_stopping_ends_streams_with_unavailable_so_that_callers_resume_elsewhere() -> None:
    sleeper = Sleeper()
    options = ServerOptions(stream_grace=0, grace=30)

    async with open_channel_later() as dial:
        async with serving(options, registered(Stream=sleeper.stream)) as server:
            call = Stub(await dial(server.address)).stream(Text(value="x"))
            assert (await call.read()).value == "x"
            await sleeper.running.wait()
        error = await failure_of(call.read())

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert from_rpc(error).reason == "REPLICA_STOPPING"
    assert sleeper.cancelled.is_set()


async def test_health_answers_for_the_server_and_each_service_and_leaves_first() -> None:
    async with open_channel_later() as dial:
        async with serving(ServerOptions(stream_grace=30), registered(Unary=echo)) as server:
            stub = health_pb2_grpc.HealthStub(await dial(server.address))
            for service in ("", SERVICE):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            left = asyncio.create_task(_not_serving(watch))
        assert await left


async def _not_serving(watch: Any) -> bool:
    answer = await watch.read()
    watch.cancel()
    return bool(answer.status == health_pb2.HealthCheckResponse.NOT_SERVING)


async def test_reflection_lists_the_services() -> None:
    async with (
        answering(Unary=echo) as (_, running),
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub: Any = reflection_pb2_grpc  # its types know the synchronous channel alone
        call = stub.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        services = (await call.read()).list_services_response.service
        names = {service.name for service in services}

    assert SERVICE in names
    assert "grpc.health.v1.Health" in names


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.1.2.3:50051", "example.org:50051"])
async def test_a_listener_open_to_others_refuses_plain_text_and_says_what_to_do(
    listen: str,
) -> None:
    with pytest.raises(InsecureListener, match=r"set a certificate .* listen on 127\.0\.0\.1"):
        async with serving(ServerOptions(listen=listen), registered(Unary=echo)):
            pass


async def test_a_listener_open_to_others_may_be_told_to_use_plain_text() -> None:
    options = ServerOptions(listen="0.0.0.0:0", allow_plaintext=True)

    async with answering(options, Unary=echo) as (stub, running):
        assert running.address == f"127.0.0.1:{running.port}"
        assert (await stub.unary(Text(value="x"))).value == "x"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/maieutic.sock", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("localhost.example.org:1", False),
        (":1", False),
    ],
)
def test_loopback_addresses_are_told_from_others(address: str, *, loopback: bool) -> None:
    assert is_loopback(address) is loopback


async def test_a_unix_socket_serves_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"

    async with answering(ServerOptions(listen=f"unix:{path}"), Unary=echo) as (stub, _):
        assert (await stub.unary(Text(value="x"))).value == "x"


async def test_a_taken_port_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        options = ServerOptions(listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RuntimeError, match="Failed to bind"):
            async with serving(options, registered(Unary=echo)):
                pass


async def test_a_service_s_own_interceptor_can_refuse_a_call_with_a_domain_error() -> None:
    class Closed(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            raise PermissionDenied("closed")

    for method in ("unary", "stream", "chat"):
        server = {"interceptors": [Closed()]}
        handlers: Any = {"Unary": echo, "Stream": count, "Chat": chat}
        async with answering(server=server, **handlers) as (stub, _):
            call = getattr(stub, method)(iter([Text()]) if method == "chat" else Text())
            error = await failure_of(call if method == "unary" else call.read())
        assert isinstance(from_rpc(error), PermissionDenied)


async def test_a_service_s_own_concern_sees_the_request() -> None:
    async def refusing_no(call: Call, answer: Answer) -> Any:
        if isinstance(call.request, Text) and call.request.value == "no":
            raise PermissionDenied("no")
        return await answer()

    server = {"arounds": [refusing_no]}
    async with answering(server=server, Unary=echo) as (stub, _):
        assert (await stub.unary(Text(value="yes"))).value == "yes"
        error = await failure_of(stub.unary(Text(value="no")))

    assert isinstance(from_rpc(error), PermissionDenied)


async def test_a_message_over_the_limit_is_refused() -> None:
    options = ServerOptions(max_message_bytes=1000)

    async with answering(options, Unary=echo) as (stub, _):
        error = await failure_of(stub.unary(Text(value="x" * 2000)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_cancelled_call_is_not_logged_as_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sleeper = Sleeper()
    with caplog.at_level(logging.WARNING):
        async with answering(Unary=sleeper.unary) as (stub, _):
            while not sleeper.running.is_set():  # the deadline may pass on the way
                await failure_of(stub.unary(Text(), timeout=0.1))
            await asyncio.wait_for(sleeper.cancelled.wait(), 5)

    assert caplog.records == []
