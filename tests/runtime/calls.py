"""A service of four methods, one of each shape, whose handlers a test gives."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue as Text

from services.runtime.channel import open_channel
from services.runtime.server import RunningServer, ServerOptions, serving

SERVICE = "maieutic.test.v1.CallService"
UNARY = f"{SERVICE}/Unary"
Handler = Callable[[Any, Any], Any]
BUILDERS: dict[str, Any] = {
    "Unary": grpc.unary_unary_rpc_method_handler,
    "Stream": grpc.unary_stream_rpc_method_handler,
    "Collect": grpc.stream_unary_rpc_method_handler,
    "Chat": grpc.stream_stream_rpc_method_handler,
}


def registered(**handlers: Handler) -> Callable[[grpc.aio.Server], Sequence[str]]:
    """Return a `register` for `serving`: method name to handler."""

    def register(server: grpc.aio.Server) -> Sequence[str]:
        methods = {
            name: BUILDERS[name](handler, Text.FromString, Text.SerializeToString)
            for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(SERVICE, methods)
        server.add_generic_rpc_handlers((generic,))
        return [SERVICE]

    return register


class Stub:
    """The service's methods on a channel, as generated code would give them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        types = (Text.SerializeToString, Text.FromString)
        self.unary: Any = channel.unary_unary(f"/{SERVICE}/Unary", *types)
        self.stream: Any = channel.unary_stream(f"/{SERVICE}/Stream", *types)
        self.collect: Any = channel.stream_unary(f"/{SERVICE}/Collect", *types)
        self.chat: Any = channel.stream_stream(f"/{SERVICE}/Chat", *types)


@asynccontextmanager
async def answering(
    options: ServerOptions | None = None, *, client: Any = None, server: Any = None, **handlers: Any
) -> AsyncIterator[tuple[Stub, RunningServer]]:
    """Serve the handlers and dial them; *client* and *server* are further arguments of the two."""
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            serving(options or ServerOptions(), registered(**handlers), **(server or {}))
        )
        arguments = {"service": "test", **(client or {})}
        channel = await stack.enter_async_context(open_channel(running.address, **arguments))
        yield Stub(channel), running


async def echo(request: Text, context: Any) -> Text:
    return request


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    """Return the error that the call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")
