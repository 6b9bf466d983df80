"""What every server of ours does around a call: trace, translate errors, bound, identify, drain."""

import asyncio
import logging
import sys
import time
from typing import Any, NoReturn

import grpc
from opentelemetry.trace import SpanKind

from services.runtime import deadline, names, telemetry
from services.runtime.errors import (
    STATUS_DETAILS_KEY,
    Internal,
    ServiceError,
    Unauthenticated,
    Unavailable,
    code_of,
    from_rpc,
    status_of,
)
from services.runtime.identity import BEARER, METADATA_KEY, Verifier, identified_as
from services.runtime.interceptors import Answer, Around, Call, Context

INTERNAL_MESSAGE = "internal error; the service's log has more under this trace"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
NO_RETRY = "-1"
ROUNDING_SECONDS = 0.05
"""gRPC rounds a deadline up on its way, so the caller's passes a little before the server's."""
SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""The codes that make a server's span failed, by the OpenTelemetry conventions."""

log = logging.getLogger(__name__)


async def traced(call: Call, answer: Answer) -> Any:
    """Record the call as a span, the caller's child, and in the metrics of the server."""
    if call.infrastructure:
        return await answer()
    record, method = telemetry.current(), call.method.removeprefix("/")
    attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: method}
    active, started = record.level(names.RPC_SERVER_ACTIVE), time.perf_counter()
    active.add(1, attributes)
    parent = telemetry.extract(call.metadata)
    with record.tracer.start_as_current_span(
        method,
        context=parent,
        kind=SpanKind.SERVER,
        attributes=attributes,
        record_exception=False,  # its message may quote a user
        set_status_on_exception=False,
    ) as span:
        try:
            return await answer()
        finally:
            code = call.code = _outcome(call, sys.exc_info()[1])
            ended = {**attributes, names.RPC_STATUS: code.name}
            span.set_attribute(names.RPC_STATUS, code.name)
            if code in SERVER_FAULTS:
                telemetry.mark_failed(span, code.name)
            active.add(-1, attributes)
            seconds = time.perf_counter() - started
            record.histogram(names.RPC_SERVER_DURATION).record(seconds, ended)


def _outcome(call: Call, error: BaseException | None) -> grpc.StatusCode:
    if isinstance(error, asyncio.CancelledError):
        left: float | None = call.context.time_remaining()
        spent = left is not None and left <= ROUNDING_SECONDS
        return grpc.StatusCode.DEADLINE_EXCEEDED if spent else grpc.StatusCode.CANCELLED
    if call.code is not grpc.StatusCode.OK:
        return call.code
    return _set_code(call.context)


def _set_code(context: Context) -> grpc.StatusCode:
    """Return the code that a handler set or aborted with; grpcio gives it as number or as code."""
    code: Any = context.code()
    if not code:  # nothing was set, which is how nearly all calls end
        return grpc.StatusCode.OK
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.OK)


async def errors_to_status(call: Call, answer: Answer) -> Any:
    """Turn what a handler raises into a status with details; a bug shows nothing of itself."""
    try:
        return await answer()
    except grpc.aio.AbortError:
        raise
    except Exception as raised:  # noqa: BLE001 - the last place where a bug can become a status
        error = _translated(call, raised)
        call.code = code_of(error)
        await _abort(call.context, error)


def _translated(call: Call, raised: Exception) -> ServiceError:
    cause = _cause(raised)
    if isinstance(cause, grpc.aio.AioRpcError):
        cause = from_rpc(cause)
        if isinstance(cause, Unauthenticated):
            # The peer refused this service, not the caller, who can do nothing about it.
            return _unexpected(call, raised)
    return cause if isinstance(cause, ServiceError) else _unexpected(call, raised)


def _cause(raised: Exception) -> Exception:
    """Return the first error of a task group, for which the others were cancelled."""
    while isinstance(raised, ExceptionGroup):
        raised = raised.exceptions[0]
    return raised


def _unexpected(call: Call, raised: Exception) -> Internal:
    log.error("unexpected error in %s", call.method, exc_info=raised)
    attributes = {names.RPC_METHOD: call.method.removeprefix("/")}
    telemetry.current().counter(names.UNEXPECTED_ERRORS).add(1, attributes)
    return Internal(INTERNAL_MESSAGE)


async def _abort(context: Context, error: ServiceError) -> NoReturn:
    status = status_of(error)
    metadata: list[tuple[str, str | bytes]] = [(STATUS_DETAILS_KEY, status.SerializeToString())]
    if error.retry_after is not None or error.relayed:
        # The caller was told when, or the call below was tried again already: no automatic retry.
        metadata.append((PUSHBACK_KEY, NO_RETRY))
    await context.abort(code_of(error), status.message, tuple(metadata))


async def within_deadline(call: Call, answer: Answer) -> Any:
    """Let the calls that the handler makes inherit what is left of the caller's time."""
    with deadline.within(call.context.time_remaining()):
        return await answer()


def identified(verifier: Verifier) -> Around:
    """Require a valid internal token, and make its identity the current one."""

    async def around(call: Call, answer: Answer) -> Any:
        if call.infrastructure:
            return await answer()
        header = call.metadata.get(METADATA_KEY, "")
        if not header.startswith(BEARER):
            message = "the call carries no internal token"
            raise Unauthenticated(message, reason="NO_INTERNAL_TOKEN")
        with identified_as(verifier.verify(header.removeprefix(BEARER))):
            return await answer()

    return around


class Draining:
    """Ends the streams of a server that stops; the caller resumes them at another replica."""

    def __init__(self) -> None:
        self._streams: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()

    def end_streams(self) -> None:
        """Cancel the handlers of all running streams; their callers get UNAVAILABLE."""
        for stream in self._streams:
            self._ended.add(stream)
            stream.cancel()

    async def around(self, call: Call, answer: Answer) -> Any:
        """Keep account of the call if it streams."""
        task = asyncio.current_task()
        if task is None or not call.streaming:
            return await answer()
        self._streams.add(task)
        try:
            return await answer()
        except asyncio.CancelledError:
            # Only our own cancellation becomes an answer; a caller's, even beside it, passes on.
            if task in self._ended and task.uncancel() == 0:
                message = "this replica is stopping: resume at another"
                raise Unavailable(message, reason="REPLICA_STOPPING") from None
            raise
        finally:
            self._streams.discard(task)
            self._ended.discard(task)
