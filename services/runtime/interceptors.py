"""What happens around every call that a server answers: an onion of small functions.

gRPC's server interceptors rewrite handlers, of which there are four shapes. `AroundCalls` does
that once; each concern (see `concerns`) is then a function that awaits the rest of the call. As
context managers they would cost several times as much.
CancelledError must pass through all of them: swallowed, it would leak the call.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from types import AsyncGeneratorType, MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import Message

from services.runtime.errors import ServiceError

INFRASTRUCTURE = ("/grpc.health.v1.", "/grpc.reflection.")

if TYPE_CHECKING:  # the stubs are generic, the classes themselves are not
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Context, Handler = grpc.aio.ServicerContext, grpc.RpcMethodHandler


@dataclass(slots=True, kw_only=True)
class Call:
    """One call being answered."""

    method: str
    """As on the wire: /package.Service/Method."""
    metadata: Mapping[str, str]
    """The caller's text metadata; of a key given twice the last."""
    context: Context
    request: Message | None
    """None if the caller streams its requests."""
    streaming: bool
    """Whether either side streams."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    """How the call ended, once it has."""

    @property
    def infrastructure(self) -> bool:
        """Whether it is a health or reflection call: no identity, no telemetry."""
        return self.method.startswith(INFRASTRUCTURE)


Answer: TypeAlias = Callable[[], Awaitable[Any]]
"""The rest of a call: what is further in, and then the handler. To be awaited once."""
Around: TypeAlias = Callable[[Call, Answer], Awaitable[Any]]
"""Awaits the rest of the call and returns what that returns; or raises instead."""


class AroundCalls(grpc.aio.ServerInterceptor):
    """Runs every call inside the given functions, the first outermost."""

    def __init__(self, *arounds: Around) -> None:
        self._arounds = arounds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler that the rest of the chain gives for this call."""
        try:
            handler = await continuation(handler_call_details)
        except ServiceError as error:
            # An interceptor further in refused the call: let the refusal take the usual way.
            handler = _refusing(error)
        if handler is None:  # no such method: gRPC itself answers UNIMPLEMENTED
            return handler
        return _surrounded(handler, handler_call_details, self._arounds)


def _surrounded(
    handler: Handler, details: grpc.HandlerCallDetails, arounds: Sequence[Around]
) -> Handler:
    takes_stream, gives_stream = handler.request_streaming, handler.response_streaming
    behavior = _behavior(handler)
    if gives_stream:
        behavior = partial(_written, behavior)
    inside_out = arounds[::-1]
    metadata = {key: value for key, value in details.invocation_metadata if isinstance(value, str)}

    async def answer(request: Any, context: Context) -> Any:
        call = Call(
            method=details.method,
            metadata=metadata,
            context=context,
            request=None if takes_stream else request,
            streaming=takes_stream or gives_stream,
        )
        rest: Answer = partial(behavior, request, context)
        for around in inside_out:
            rest = partial(around, call, rest)
        return await rest()

    build = _BUILDERS[takes_stream, gives_stream]
    return build(answer, handler.request_deserializer, handler.response_serializer)


async def _written(behavior: Any, request: Any, context: Context) -> None:
    """Send what a streaming handler yields, or wait for one that writes by itself.

    Writing here, rather than in a generator of our own, makes a cancelled call end in this task,
    at once; a generator would be closed whenever the garbage collector finds it.
    """
    responses = behavior(request, context)
    if not isinstance(responses, AsyncGeneratorType):
        await responses
        return
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)


def _behavior(handler: Handler) -> Any:
    shapes = handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream
    return next(shape for shape in shapes if shape is not None)


def _refusing(error: ServiceError) -> Handler:
    async def refuse(_requests: Any, _context: Context) -> None:
        raise error

    # A stream's handler fits any method: it starts before the first request is read.
    return grpc.stream_stream_rpc_method_handler(refuse)


_BUILDERS: Mapping[tuple[bool, bool], Callable[..., Handler]] = MappingProxyType(
    {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
)
"""By whether requests and responses stream."""
