"""Spans, metrics and logs of a service, and its trace across calls and messages."""

import asyncio
import json
import logging
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from services.runtime import names
from services.runtime.errors import NotFound
from services.runtime.logs import LogOptions
from services.runtime.telemetry import (
    TelemetryOptions,
    continuing,
    current,
    extract,
    inject,
    links_to,
    span,
    telemetry,
    untraced,
)
from tests.recorded import Recorded, recording, span_id
from tests.runtime.calls import UNARY, answering, echo, failure_of
from tests.waiting import wait_until

CALL = (names.RPC_METHOD, names.RPC_STATUS)
SAMPLED = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}


async def test_a_call_is_one_trace_over_two_hops() -> None:
    async with recording() as recorded, answering(Unary=echo) as (far, _):

        async def middle(request: Text, context: Any) -> Text:
            with span("work"):
                reply: Text = await far.unary(request)
                return reply

        async with answering(Unary=middle) as (near, _):
            with span("outermost"):
                await near.unary(Text())
            await wait_until(lambda: len(recorded.exporter.get_finished_spans()) == 6)

    finished = recorded.exporter.get_finished_spans()
    by_id = {span_id(one): one for one in finished}
    here: ReadableSpan | None = next(one for one in finished if _is_last(one, finished))
    chain = []
    while here is not None:
        chain.append(f"{here.kind.name} {here.name}")
        here = by_id.get(here.parent.span_id) if here.parent else None
    assert chain == [
        f"SERVER {UNARY}",
        f"CLIENT {UNARY}",
        "INTERNAL work",
        f"SERVER {UNARY}",
        f"CLIENT {UNARY}",
        "INTERNAL outermost",
    ]


def _is_last(one: ReadableSpan, finished: Any) -> bool:
    return all(not other.parent or other.parent.span_id != span_id(one) for other in finished)


async def test_a_refused_call_fails_the_client_s_span_and_not_the_server_s() -> None:
    async def refuse(request: Text, context: Any) -> Text:
        raise NotFound("session", "abc")

    spans = await spans_of_one_call(refuse)

    server, client = spans[f"SERVER {UNARY}"], spans[f"CLIENT {UNARY}"]
    assert server.attributes is not None
    assert server.attributes[names.RPC_STATUS] == "NOT_FOUND"
    assert server.status.status_code is StatusCode.UNSET
    assert client.status.status_code is StatusCode.ERROR


async def test_a_bug_fails_both_spans_without_the_exception_s_text() -> None:
    async def fail(request: Text, context: Any) -> Text:
        raise RuntimeError("the user said hunter2")

    spans = await spans_of_one_call(fail)

    for one in (spans[f"SERVER {UNARY}"], spans[f"CLIENT {UNARY}"]):
        assert one.attributes is not None
        assert one.attributes[names.RPC_STATUS] == "INTERNAL"
        assert one.status.status_code is StatusCode.ERROR
        assert "hunter2" not in one.to_json()


async def test_a_deadline_that_passes_is_on_both_spans() -> None:
    reached = asyncio.Event()

    async def sleep_on(request: Text, context: Any) -> Text:
        """Be left by the caller, and go on until the time is over here, too.

        That may be later: how long a call is on its way is added to its deadline.
        """
        reached.set()
        try:
            return await sleep(request, context)
        finally:
            await asyncio.sleep(context.time_remaining())

    async with recording() as recorded, answering(Unary=sleep_on) as (stub, _):
        while not reached.is_set():  # a call whose time was over on its way leaves no span there
            await failure_of(stub.unary(Text(), timeout=0.1))
        await wait_until(lambda: len(recorded.spans()) == 2)

    spans = recorded.spans()
    for one in (spans[f"SERVER {UNARY}"], spans[f"CLIENT {UNARY}"]):
        assert one.attributes is not None
        assert one.attributes[names.RPC_STATUS] == "DEADLINE_EXCEEDED"
        assert one.status.status_code is StatusCode.ERROR


async def test_a_cancelled_call_is_no_failure() -> None:
    reached = asyncio.Event()

    async def sleep_on(request: Text, context: Any) -> Text:
        reached.set()
        return await sleep(request, context)

    async with recording() as recorded, answering(Unary=sleep_on) as (stub, _):
        calling = asyncio.ensure_future(stub.unary(Text()))
        await reached.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await wait_until(lambda: len(recorded.spans()) == 2)

    for one in recorded.spans().values():
        assert one.attributes is not None
        assert one.attributes[names.RPC_STATUS] == "CANCELLED"
        assert one.status.status_code is StatusCode.UNSET


async def sleep(request: Text, context: Any) -> Text:
    await asyncio.Event().wait()
    return request


async def spans_of_one_call(handler: Any) -> dict[str, ReadableSpan]:
    async with recording() as recorded, answering(Unary=handler) as (stub, _):
        await failure_of(stub.unary(Text()))
        await wait_until(lambda: len(recorded.spans()) == 2)
    return recorded.spans()


async def test_calls_are_counted_and_timed_by_method_and_status() -> None:
    async def odd(request: Text, context: Any) -> Text:
        if request.value:
            raise NotFound("session", "abc")
        return request

    async with recording() as recorded, answering(Unary=odd) as (stub, _):
        await stub.unary(Text())
        await stub.unary(Text())
        await failure_of(stub.unary(Text(value="x")))
        client = names.RPC_CLIENT_DURATION
        await wait_until(lambda: len(recorded.points(client, *CALL)) == 2)
        for metric in (client, names.RPC_SERVER_DURATION):
            points = recorded.points(metric, *CALL)
            counts = {status: point.count for (_, status), point in points.items()}
            assert counts == {"OK": 2, "NOT_FOUND": 1}
            assert next(iter(points.values())).explicit_bounds == names.FAST_SECONDS
        assert recorded.points(names.RPC_SERVER_ACTIVE, names.RPC_METHOD)[UNARY,].value == 0


async def test_bugs_are_counted() -> None:
    async def fail(request: Text, context: Any) -> Text:
        raise RuntimeError

    async with recording() as recorded, answering(Unary=fail) as (stub, _):
        await failure_of(stub.unary(Text()))
        assert recorded.points(names.UNEXPECTED_ERRORS, names.RPC_METHOD)[UNARY,].value == 1


async def test_health_checks_leave_no_spans() -> None:
    async with (
        recording() as recorded,
        answering(Unary=echo) as (_, running),
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())

    assert recorded.spans() == {}


async def test_services_in_one_process_record_apart() -> None:
    started = asyncio.Event()

    async def service(name: str) -> Recorded:
        async with recording(name) as recorded:
            started.set()
            assert current().service == name
            with span(f"{name}'s own"):
                await asyncio.sleep(0)
            return recorded

    one, two = await asyncio.gather(service("session"), service("gateway"))

    assert set(one.spans()) == {"INTERNAL session's own"}
    assert set(two.spans()) == {"INTERNAL gateway's own"}
    (session,) = one.spans().values()
    assert session.resource.attributes["service.name"] == "session"
    assert current().service == ""


async def test_the_trace_travels_in_a_message_s_headers() -> None:
    headers: dict[str, str] = {}
    async with recording() as recorded:
        with span("publish", kind=SpanKind.PRODUCER):
            inject(headers)
        with span("child", parent=extract(headers)):
            pass
        with span("batch", kind=SpanKind.CONSUMER, links=links_to(headers)):
            pass

    spans = recorded.spans()
    publish, child, batch = (
        spans[name] for name in ("PRODUCER publish", "INTERNAL child", "CONSUMER batch")
    )
    assert child.parent is not None
    assert child.parent.span_id == span_id(publish)
    assert [link.context.span_id for link in batch.links] == [span_id(publish)]
    assert batch.parent is None


async def test_a_message_without_a_trace_begins_one() -> None:
    nonsense = extract({"traceparent": "nonsense"})
    async with recording() as recorded:
        with span("caller"), span("work", parent=nonsense, links=links_to({})):
            pass

    work = recorded.spans()["INTERNAL work"]
    assert work.parent is None
    assert not work.links


async def test_a_failed_span_names_the_exception_s_type_alone() -> None:
    async with recording() as recorded:
        with pytest.raises(ValueError, match="hunter2"), span("work"):
            raise ValueError("hunter2")

    work = recorded.spans()["INTERNAL work"]
    assert work.status.status_code is StatusCode.ERROR
    assert "ValueError" in work.to_json()
    assert "hunter2" not in work.to_json()


async def test_without_an_exporter_spans_are_ids_only_and_still_travel() -> None:
    headers: dict[str, str] = {}
    async with telemetry("test", TelemetryOptions()):
        with span("work") as opened:
            inject(headers)
            assert not opened.is_recording()

    assert headers["traceparent"].startswith("00-")


async def test_without_an_exporter_a_caller_s_trace_passes_through_unchanged() -> None:
    headers: dict[str, str] = {}
    async with telemetry("test", TelemetryOptions()):
        with span("handler", parent=extract(SAMPLED)), span("call", kind=SpanKind.CLIENT):
            inject(headers)

    assert headers == SAMPLED


async def test_work_that_belongs_to_a_trace_goes_on_in_it() -> None:
    async with recording() as recorded, answering(Unary=echo) as (stub, _):
        with span("sweep"), continuing(SAMPLED):
            await stub.unary(Text())
        with span("sweep"), continuing({}):
            await stub.unary(Text())
        await wait_until(lambda: len(recorded.exporter.get_finished_spans()) == 6)

    calls = [one for one in recorded.exporter.get_finished_spans() if one.kind is SpanKind.CLIENT]
    ends = [one.parent and f"{one.parent.trace_id:032x}-{one.parent.span_id:016x}" for one in calls]
    assert ends == [f"{'1' * 32}-{'2' * 16}", None]


async def test_an_endless_call_begins_no_trace() -> None:
    async with recording() as recorded, answering(Unary=echo) as (stub, _):
        with untraced():
            await stub.unary(Text())

    assert recorded.spans() == {}


async def test_a_batch_is_recorded_if_anything_in_it_is() -> None:
    unsampled = {"traceparent": SAMPLED["traceparent"][:-1] + "0"}
    async with recording(ratio=0.0) as recorded:
        with span("recorded", links=[*links_to(unsampled), *links_to(SAMPLED)]):
            pass
        with span("not recorded", links=links_to(unsampled)):
            pass

    assert set(recorded.spans()) == {"INTERNAL recorded"}


async def test_a_caller_s_decision_to_record_is_followed() -> None:
    async with recording(ratio=0.0) as recorded:
        with span("asked for", parent=extract(SAMPLED)):
            pass
        with span("own"):
            pass

    assert set(recorded.spans()) == {"INTERNAL asked for"}


async def test_log_lines_are_json_with_service_and_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with telemetry("session", TelemetryOptions(log=LogOptions(level="warning"))):
        with span("work") as opened:
            logging.getLogger("a.b").warning("turn %s is late", "t1", extra={"lane": "long"})
            logging.getLogger("a.b").info("not shown")

    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["message"] == "turn t1 is late"
    assert (line["level"], line["service"], line["logger"]) == ("warning", "session", "a.b")
    assert line["lane"] == "long"
    assert line["trace_id"] == f"{opened.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{opened.get_span_context().span_id:016x}"


async def test_a_logged_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    async with telemetry("session", TelemetryOptions()):
        error = ValueError("x")
        logging.getLogger("a").error("failed", exc_info=error)

    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "ValueError: x" in line["exception"]


async def test_a_lost_link_is_told_by_the_bus_alone(capsys: pytest.CaptureFixture[str]) -> None:
    async with telemetry("agents", TelemetryOptions()):
        for level in (logging.WARNING, logging.ERROR):
            logging.getLogger("aiormq.connection").log(level, "reader exited abnormally")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "error"


@pytest.mark.parametrize("library", ["httpx", "pinecone.async_client.async_index"])
async def test_a_request_is_told_by_its_span_alone(
    library: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with telemetry("retrieval", TelemetryOptions()):
        for level in (logging.INFO, logging.WARNING):
            logging.getLogger(library).log(level, "a request")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "warning"


async def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    async with telemetry("session", TelemetryOptions(log=LogOptions(form="console"))):
        logging.getLogger("a").warning("late", extra={"turn": "t1"})

    assert capsys.readouterr().err.endswith(" warning session     late turn=t1\n")


async def test_services_in_one_process_share_one_log_and_mark_their_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def service(name: str) -> None:
        async with telemetry(name, TelemetryOptions()):
            await asyncio.sleep(0)
            logging.getLogger("a").warning("here")

    before = list(logging.getLogger().handlers)
    async with telemetry("embedded", TelemetryOptions()):
        await asyncio.gather(service("session"), service("gateway"))

    lines = [json.loads(line)["service"] for line in capsys.readouterr().err.splitlines()]
    assert sorted(lines) == ["gateway", "session"]
    assert logging.getLogger().handlers == before
