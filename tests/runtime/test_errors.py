"""Errors cross a process boundary with their code, message and details."""

import logging
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue as Text
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from services.runtime import errors
from services.runtime.errors import (
    CODES,
    Aborted,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServiceError,
    Unauthenticated,
    Unavailable,
    code_of,
    from_rpc,
)
from tests.runtime.calls import answering, failure_of

SAMPLES: list[ServiceError] = [
    InvalidArgument("page_size", "is 0: give 1 to 100"),
    NotFound("session", "abc"),
    Unavailable("the archive is away", retry_after=2.5),
    *(
        kind("what happened", reason="SOME_REASON")
        for kind in CODES
        if kind not in {InvalidArgument, NotFound, Unavailable}
    ),
]


def by_kind(error: ServiceError) -> str:
    return type(error).__name__


def unpacked(error: ServiceError, kind: Any) -> Any:
    for detail in error.details():
        message = kind()
        if isinstance(detail, AnyMessage) and detail.Unpack(message):
            return message
    return None


async def raised_by(error: Exception) -> grpc.aio.AioRpcError:
    async def fail(request: Text, context: Any) -> Text:
        raise error

    async with answering(Unary=fail) as (stub, _):
        return await failure_of(stub.unary(Text()))


@pytest.mark.parametrize("error", SAMPLES, ids=by_kind)
async def test_each_kind_reaches_the_client_with_code_message_and_reason(
    error: ServiceError,
) -> None:
    received = await raised_by(error)

    assert received.code() is CODES[type(error)]
    assert received.details() == error.message
    assert unpacked(from_rpc(received), ErrorInfo) == ErrorInfo(
        reason=error.reason, domain="maieutic"
    )


@pytest.mark.parametrize("error", SAMPLES, ids=by_kind)
async def test_an_error_relayed_by_a_second_server_is_the_same_error(error: ServiceError) -> None:
    once = from_rpc(await raised_by(error))
    # UNAUTHENTICATED between services is a fault of ours; it is tested apart.
    twice = once if isinstance(once, Unauthenticated) else from_rpc(await raised_by(once))

    for received in (once, twice):
        assert type(received) is type(error)
        assert received.message == error.message
        assert received.reason == error.reason
        assert received.retry_after == error.retry_after
    assert once.details() == twice.details()


async def test_a_wrong_field_is_named_with_its_problem() -> None:
    error = from_rpc(await raised_by(InvalidArgument("page_size", "is 0: give 1 to 100")))

    violation = unpacked(error, BadRequest).field_violations[0]
    assert (violation.field, violation.description) == ("page_size", "is 0: give 1 to 100")


async def test_several_wrong_fields_are_named_at_once() -> None:
    error = from_rpc(await raised_by(InvalidArgument.fields({"a": "is empty", "b": "is long"})))

    violations = unpacked(error, BadRequest).field_violations
    assert [violation.field for violation in violations] == ["a", "b"]
    assert error.message == "a: is empty; b: is long"


async def test_the_time_to_wait_travels_in_the_details() -> None:
    error = from_rpc(await raised_by(Unavailable("wait", retry_after=0.25)))

    assert unpacked(error, RetryInfo).retry_delay.ToMilliseconds() == 250
    assert error.retry_after == 0.25


async def test_a_typed_detail_of_a_service_travels_along() -> None:
    error = from_rpc(await raised_by(Aborted("stale", extra=[Text(value="revision 7")])))

    assert unpacked(error, Text).value == "revision 7"


async def test_a_service_s_own_error_has_the_code_of_its_kind() -> None:
    class SessionClosed(FailedPrecondition):
        default_reason = "SESSION_CLOSED"

    received = await raised_by(SessionClosed("the session is closed"))

    assert received.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert from_rpc(received).reason == "SESSION_CLOSED"
    assert code_of(SessionClosed("x")) is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_bug_shows_the_client_nothing_and_the_log_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        received = await raised_by(RuntimeError("password=hunter2"))

    assert received.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in f"{received.details()} {received.trailing_metadata()}"
    assert caplog.records[0].exc_info is not None
    assert "hunter2" in caplog.text


async def test_the_first_error_of_a_task_group_is_the_call_s_error() -> None:
    received = await raised_by(ExceptionGroup("tasks", [DataLoss("unreadable")]))

    assert received.code() is grpc.StatusCode.DATA_LOSS


async def test_a_peer_s_error_that_no_handler_caught_is_relayed() -> None:
    inner = await raised_by(NotFound("session", "abc"))

    outer = from_rpc(await raised_by(inner))

    assert type(outer) is NotFound
    assert outer.reason == "SESSION_NOT_FOUND"


async def test_a_peer_that_refuses_this_service_is_this_service_s_fault() -> None:
    inner = await raised_by(Unauthenticated("the internal token is refused"))

    assert (await raised_by(inner)).code() is grpc.StatusCode.INTERNAL


async def test_what_grpc_itself_reports_does_not_show_addresses_to_the_caller() -> None:
    async with answering(Unary=None) as (stub, running):
        await running.server.stop(0)
        inner = await failure_of(stub.unary(Text()))
    error = from_rpc(inner)
    assert isinstance(error, Unavailable)
    assert "127.0.0.1" in error.message

    outer = await raised_by(error)

    assert outer.code() is grpc.StatusCode.UNAVAILABLE
    assert outer.details() == errors.TRANSPORT_MESSAGE
    assert b"127.0.0.1" not in repr(outer.trailing_metadata()).encode()


def test_details_cut_short_by_a_proxy_leave_code_and_message() -> None:
    cut = grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND,
        grpc.aio.Metadata(),
        grpc.aio.Metadata((errors.STATUS_DETAILS_KEY, b"\x12\xff")),
        details="session 'abc' does not exist",
    )

    error = from_rpc(cut)

    assert type(error) is NotFound
    assert error.message == "session 'abc' does not exist"
