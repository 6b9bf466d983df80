"""Ids are looked at before anything else: a wrong one is refused though the store is away."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1 import (
    admin_service_pb2 as admin,
    artifact_service_pb2 as artifacts,
    session_service_pb2 as sessions,
    specification_service_pb2 as specifications,
    turn_service_pb2 as turns,
    usage_admin_service_pb2 as usage_admin,
    usage_service_pb2 as usage,
)
from services.runtime.scraping import metrics_endpoint
from services.runtime.telemetry import TelemetryOptions, telemetry
from services.session.calls import OPERATIONS
from tests.backends.redis import RedisServer
from tests.proxy import proxy
from tests.scrape import scraped
from tests.session.stack import Stack, bad_field, failure, session_stack

GOOD = "a" * 48
BAD = "a b*" + "c" * 40
METHODS = {
    method.name: method
    for file in (sessions, specifications, artifacts, turns, usage, usage_admin, work, admin)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
IDS = frozenset(
    {
        *("session_id", "turn_id", "message_id", "note_id", "bookmark_id", "conflict_id"),
        *("record_id", "artifact_id"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request with one id that this service cannot have given."""

    method: str
    request: Message
    field: str
    """Where the wrong id is."""


def test_every_call_has_its_operation() -> None:
    assert OPERATIONS.keys() == METHODS.keys()


async def test_a_wrong_id_is_refused_by_name_before_anything_is_asked_for(
    valkey_server: RedisServer,
) -> None:
    cases = [*plain_cases(), *nested_cases()]
    without_ids = {"CreateSession", "GetOrCreateSession", "ListQuarantined"}
    assert {case.method for case in cases} == METHODS.keys() - without_ids
    options = TelemetryOptions()
    async with (
        metrics_endpoint("127.0.0.1:0") as endpoint,
        telemetry("session", options, metric_readers=[endpoint.reader()]),
        proxy(valkey_server.port) as way,
        session_stack(f"redis://127.0.0.1:{way.port}/0", redis_timeout=0.2) as stack,
        way.outage(),
    ):
        reads = stack.archive.reads
        for case in cases:
            error = await failure(called(stack, case))
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, case
            assert bad_field(error) == case.field
        assert stack.archive.reads == reads
        page = await scraped(endpoint.address)
    seen = {
        sample.labels["operation"]: sample.value
        for sample in page["session_store_errors"].samples
        if sample.labels["error_type"] == "invalid_id"
    }
    assert seen == Counter(OPERATIONS[case.method].value for case in cases)


def plain_cases() -> Iterator[Case]:
    """Yield one for each id that a request has as a field of its own."""
    for name, method in METHODS.items():
        for field in method.input_type.fields:
            if field.name not in IDS:
                continue
            request: Any = GetMessageClass(method.input_type)()
            for other in method.input_type.fields:
                if other.name in IDS:
                    setattr(request, other.name, GOOD)
            setattr(request, field.name, BAD)
            yield Case(method=name, request=request, field=field.name)


def nested_cases() -> Iterator[Case]:
    """Yield one for each id that is further down in a request."""
    listed = sessions.ListSessionsRequest()
    listed.filter.parent_session_id = BAD
    yield Case(method="ListSessions", request=listed, field="filter.parent_session_id")
    for job, field in jobs():
        claim = work.ClaimTurnRequest(job=job)
        yield Case(method="ClaimTurn", request=claim, field=f"job.{field}")
        ensure = work.EnsureTurnsRequest(jobs=[job])
        yield Case(method="EnsureTurns", request=ensure, field=f"jobs.{field}")
        marked = work.MarkArchivedRequest(turns=[TurnFinished(job=job)])
        yield Case(method="MarkArchived", request=marked, field=f"turns.job.{field}")
    session = work.MarkArchivedRequest(sessions=[work.ArchivedSession(session_id=BAD)])
    yield Case(method="MarkArchived", request=session, field="sessions.session_id")
    accepted = work.MarkArchivedRequest(accepted_turn_ids=[GOOD, BAD])
    yield Case(method="MarkArchived", request=accepted, field="accepted_turn_ids")
    events = work.RecordTurnEventsRequest(events=[work.TurnEvents(turn_id=BAD)])
    yield Case(method="RecordTurnEvents", request=events, field="events.turn_id")
    beat = work.RecordTurnEventsRequest(heartbeats=[work.TurnHeartbeat(turn_id=BAD)])
    yield Case(method="RecordTurnEvents", request=beat, field="heartbeats.turn_id")


def jobs() -> Iterator[tuple[RunTurn, str]]:
    """Yield jobs with one wrong id each, and where it is."""
    for field in ("turn_id", "message.session_id", "predecessor_turn_id"):
        job = RunTurn(turn_id=GOOD)
        job.message.session_id = GOOD
        owner, _, name = field.rpartition(".")
        setattr(job.message if owner else job, name, BAD)
        yield job, field


def called(stack: Stack, case: Case) -> Any:
    """Make the call as whoever may make it."""
    replica = stack.first
    archive = case.method in ("MarkArchived", "EnsureTurns")
    worker_or_archive = replica.archive if archive else replica.work
    stubs: tuple[Any, ...] = (
        replica.sessions,
        replica.turns,
        replica.specifications,
        replica.artifacts,
        replica.usage,
        replica.usage_admin,
        replica.admin,
        worker_or_archive,
    )
    stub = next(stub for stub in stubs if hasattr(stub, case.method))
    with stack.user().acting():
        if case.method == "RecordTurnEvents":
            return stub.RecordTurnEvents(_one(case.request))
        return getattr(stub, case.method)(case.request)


async def _one(request: Any) -> AsyncIterator[Any]:
    yield request
