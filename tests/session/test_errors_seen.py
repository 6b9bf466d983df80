"""What operators and callers see of each thing that can go wrong with the store.

Each is provoked on a live server: the call's code, reason and message, the sample on the page for
Prometheus, and the line of the log.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio
from redis import Redis as BlockingRedis

from maieutic.v1.session_service_pb2 import Session
from services.runtime import telemetry
from services.runtime.scraping import Endpoint, metrics_endpoint
from services.runtime.telemetry import TelemetryOptions
from services.session.adapters import keys
from services.session.errors import ErrorType
from services.session.observing import StoreOperation
from tests.backends.redis import RedisServer, valkey
from tests.proxy import Direction, Proxy, proxy
from tests.scrape import scraped
from tests.session.stack import (
    SOON,
    Stack,
    User,
    failure,
    kinds,
    reason,
    retry_after,
    session_stack,
)
from tests.waiting import wait_until

TITLE = "What only its user should read"
PASSWORD = "open-sesame"
IMPATIENT = 0.3


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A session service on a live store, and everything that can be done to the two."""

    stack: Stack
    way: Proxy
    """From the service to the store."""
    endpoint: Endpoint
    user: User
    session_id: str

    @property
    def record(self) -> str:
        return keys.record_key(self.session_id)

    async def count(self, operation: str, error_type: str) -> float:
        """Return what the page for Prometheus says."""
        page = await scraped(self.endpoint.address)
        wanted = {
            "operation": operation,
            "error_type": error_type,
            "service_name": "session",
        }
        samples = page["session_store_errors"].samples if "session_store_errors" in page else []
        return next((one.value for one in samples if one.labels == wanted), 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RedisServer]:
    async with valkey() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    """The page for Prometheus."""
    async with metrics_endpoint("127.0.0.1:0") as running:
        yield running


@asynccontextmanager
async def scene_on(
    server: RedisServer, endpoint: Endpoint, patience: float
) -> AsyncIterator[Scene]:
    async with (
        telemetry.telemetry("session", TelemetryOptions(), metric_readers=[endpoint.reader()]),
        proxy(server.port) as way,
        acl_user(server) as name,
        session_stack(
            f"redis://{name}:{PASSWORD}@127.0.0.1:{way.port}/0",
            redis_timeout=patience,
            redis_connections=1,
        ) as stack,
    ):
        user = stack.user()
        with stack.archiver.paused():
            session = await created(user)
            yield Scene(
                stack=stack,
                way=way,
                endpoint=endpoint,
                user=user,
                session_id=session.session_id,
            )
            await server_says(server, "CONFIG", "SET", "maxmemory", "0")


async def created(user: User) -> Session:
    """Return a new session; on a busy machine the store may take longer than it may."""
    while True:
        try:
            return await user.create("first", title=TITLE)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


@asynccontextmanager
async def acl_user(server: RedisServer) -> AsyncIterator[str]:
    """Make a user of the store who may do everything, for now."""
    await server_says(server, "ACL", "SETUSER", "maieutic", "on", f">{PASSWORD}", *ALL)
    yield "maieutic"
    await server_says(server, "ACL", "DELUSER", "maieutic")


ALL = ("~*", "&*", "+@all")


async def server_says(server: RedisServer, *command: str) -> None:
    """Have the server do something, past the proxy."""

    def say() -> None:
        with BlockingRedis.from_url(server.url) as redis:
            redis.execute_command(*command)

    await asyncio.to_thread(say)


Provoking = Callable[[Scene, RedisServer], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something that goes wrong, and how it must be seen."""

    provoke: Provoking
    """Yields the call that meets it."""
    error_type: ErrorType
    operation: StoreOperation
    code: grpc.StatusCode
    reason: str
    says: str
    """What must be in the message: the problem, and what to do."""
    retry_after: float | None
    timeout: float = 5.0
    """Of the store, in seconds: short for what is given up only then."""
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.error_type.value


@asynccontextmanager
async def a_server_that_hangs(scene: Scene, _: RedisServer) -> AsyncIterator[Any]:
    async with scene.way.paused(Direction.TO_CLIENT):
        yield scene.user.get(scene.session_id)


@asynccontextmanager
async def a_server_that_is_away(scene: Scene, _: RedisServer) -> AsyncIterator[Any]:
    async with scene.way.outage():
        yield scene.user.update(scene.session_id, title=TITLE)


@asynccontextmanager
async def a_writer_that_is_always_first(scene: Scene, server: RedisServer) -> AsyncIterator[Any]:
    with BlockingRedis.from_url(server.url) as other:

        def writes_before(chunk: bytes) -> bool:
            if b"EXEC" in chunk:
                other.set(scene.record, other.get(scene.record))
            return False

        scene.way.swallow_replies(writes_before)
        yield scene.user.touch(scene.session_id)
        scene.way.swallow_replies(lambda _: False)


@asynccontextmanager
async def a_damaged_record(scene: Scene, server: RedisServer) -> AsyncIterator[Any]:
    await server_says(server, "SETRANGE", scene.record, "8", "\x00\x00\x00")
    yield scene.user.get(scene.session_id)


@asynccontextmanager
async def a_user_without_rights(scene: Scene, server: RedisServer) -> AsyncIterator[Any]:
    await server_says(server, "ACL", "SETUSER", "maieutic", "-set")
    yield scene.user.delete(scene.session_id)


@asynccontextmanager
async def a_changed_password(scene: Scene, server: RedisServer) -> AsyncIterator[Any]:
    await server_says(server, "ACL", "SETUSER", "maieutic", "resetpass", ">another")
    await scene.way.cut()
    yield scene.user.page()


@asynccontextmanager
async def an_unknown_session(scene: Scene, _: RedisServer) -> AsyncIterator[Any]:
    yield scene.user.get("s" * 48)


@asynccontextmanager
async def an_id_of_no_form(scene: Scene, _: RedisServer) -> AsyncIterator[Any]:
    yield scene.user.begin(f"{scene.session_id}:rec", TITLE)


@asynccontextmanager
async def a_pool_that_is_all_in_use(scene: Scene, _: RedisServer) -> AsyncIterator[Any]:
    # A session is made only when the archive has counted the user's others.
    scene.stack.archive.counts.clear()
    reads = scene.stack.archive.reads
    holding = asyncio.create_task(scene.stack.user().create())
    await wait_until(lambda: scene.stack.archive.reads >= reads + 2, SOON)
    yield scene.user.end(scene.session_id)
    scene.stack.archive.counts.set()
    await holding


@asynccontextmanager
async def a_full_memory(scene: Scene, server: RedisServer) -> AsyncIterator[Any]:
    await server_says(server, "CONFIG", "SET", "maxmemory", "1")
    yield scene.user.create(title=TITLE)


@asynccontextmanager
async def a_key_of_another_type(scene: Scene, server: RedisServer) -> AsyncIterator[Any]:
    await server_says(server, "SET", keys.messages_key(scene.session_id), TITLE)
    yield scene.user.begin(scene.session_id, TITLE)


CASES = (
    Case(
        provoke=a_server_that_hangs,
        timeout=IMPATIENT,
        error_type=ErrorType.TIMEOUT,
        operation=StoreOperation.GET,
        code=grpc.StatusCode.UNAVAILABLE,
        reason="SESSION_STORE_UNAVAILABLE",
        says="it did not answer in time): retry; if it lasts, an operator looks at its load",
        retry_after=1.0,
    ),
    Case(
        provoke=a_server_that_is_away,
        timeout=IMPATIENT,
        error_type=ErrorType.CONNECTION,
        operation=StoreOperation.UPDATE,
        code=grpc.StatusCode.UNAVAILABLE,
        reason="SESSION_STORE_UNAVAILABLE",
        says="it cannot be reached): retry; if it lasts, an operator looks whether the server",
        retry_after=1.0,
    ),
    Case(
        provoke=a_writer_that_is_always_first,
        timeout=0.8,
        error_type=ErrorType.CONFLICT_EXHAUSTED,
        operation=StoreOperation.REFRESH,
        code=grpc.StatusCode.ABORTED,
        reason="CONFLICT_EXHAUSTED",
        says="while it was being written: retry",
        retry_after=0.1,
    ),
    Case(
        provoke=a_damaged_record,
        error_type=ErrorType.SERIALIZATION,
        operation=StoreOperation.GET,
        code=grpc.StatusCode.DATA_LOSS,
        reason="RECORD_DAMAGED",
        says="an operator finds it with `maieutic admin quarantine list`",
        retry_after=None,
    ),
    Case(
        name="permission of the user",
        provoke=a_user_without_rights,
        error_type=ErrorType.PERMISSION,
        operation=StoreOperation.DELETE,
        code=grpc.StatusCode.UNAVAILABLE,
        reason="SESSION_STORE_UNAVAILABLE",
        says="an operator corrects MAIEUTIC_REDIS_URL, or the rules of its user",
        retry_after=30.0,
    ),
    Case(
        name="permission to log in",
        provoke=a_changed_password,
        error_type=ErrorType.PERMISSION,
        operation=StoreOperation.LIST,
        code=grpc.StatusCode.UNAVAILABLE,
        reason="SESSION_STORE_UNAVAILABLE",
        says="an operator corrects MAIEUTIC_REDIS_URL, or the rules of its user",
        retry_after=30.0,
    ),
    Case(
        provoke=an_unknown_session,
        error_type=ErrorType.NOT_FOUND,
        operation=StoreOperation.GET,
        code=grpc.StatusCode.NOT_FOUND,
        reason="SESSION_NOT_FOUND",
        says="does not exist",
        retry_after=None,
    ),
    Case(
        provoke=an_id_of_no_form,
        error_type=ErrorType.INVALID_ID,
        operation=StoreOperation.TURN,
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="INVALID_ARGUMENT",
        says="session_id: must be an id as this service gave it",
        retry_after=None,
    ),
    Case(
        provoke=a_pool_that_is_all_in_use,
        timeout=IMPATIENT,
        error_type=ErrorType.POOL_EXHAUSTED,
        operation=StoreOperation.UPDATE,
        code=grpc.StatusCode.UNAVAILABLE,
        reason="SESSION_STORE_UNAVAILABLE",
        says="an operator adds replicas, or raises MAIEUTIC_REDIS_CONNECTIONS",
        retry_after=1.0,
    ),
    Case(
        provoke=a_full_memory,
        error_type=ErrorType.MEMORY,
        operation=StoreOperation.CREATE,
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason="SESSION_STORE_FULL",
        says="memory is full: retry later; an operator raises its maxmemory",
        retry_after=5.0,
    ),
    Case(
        provoke=a_key_of_another_type,
        error_type=ErrorType.UNKNOWN,
        operation=StoreOperation.TURN,
        code=grpc.StatusCode.UNAVAILABLE,
        reason="SESSION_STORE_UNAVAILABLE",
        says="it refused a command): retry; if it lasts, an operator finds its answer in the log",
        retry_after=1.0,
    ),
)


def test_every_type_of_error_is_provoked() -> None:
    assert {case.error_type for case in CASES} == set(ErrorType)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_an_error_of_the_store_is_told_counted_and_logged(
    case: Case, server: RedisServer, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scene_on(server, endpoint, case.timeout) as scene:
        with telemetry.span("the caller") as span:
            trace_id = f"{span.get_span_context().trace_id:032x}"
            async with case.provoke(scene, server) as call:
                error = await failure(call)
                counted = await scene.count(case.operation, case.error_type)

    assert (error.code(), reason(error)) == (case.code, case.reason)
    told = error.details() or ""
    assert case.says in told
    if case.retry_after is not None:
        assert retry_after(error) == case.retry_after
    assert counted == 1
    log = capsys.readouterr().err
    (line,) = [
        line
        for line in map(json.loads, log.splitlines())
        if line.get("error_type") == case.error_type and line.get("trace_id") == trace_id
    ]
    assert line["operation"] == case.operation
    assert line["service"] == "session"
    for secret in (PASSWORD, TITLE):
        assert secret not in log
        assert secret not in told


async def test_what_runs_without_a_call_counts_as_turns(
    server: RedisServer, endpoint: Endpoint
) -> None:
    async with scene_on(server, endpoint, IMPATIENT) as scene, scene.way.outage():

        async def counted() -> bool:
            return await scene.count(StoreOperation.TURN, ErrorType.CONNECTION) > 0

        await wait_until(counted, SOON)


async def test_what_a_stream_reads_counts_as_events(
    server: RedisServer, endpoint: Endpoint
) -> None:
    async with scene_on(server, endpoint, IMPATIENT) as scene:
        stream = scene.user.stream(scene.session_id, TITLE)
        await anext(aiter(stream))
        async with scene.way.outage():
            error = await failure(stream)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert await scene.count(StoreOperation.EVENTS, ErrorType.CONNECTION) == 1


async def test_a_stream_with_a_damaged_log_goes_on_to_its_outcome_and_the_damage_is_counted(
    server: RedisServer, endpoint: Endpoint
) -> None:
    async with scene_on(server, endpoint, 5.0) as scene:
        turn = await scene.user.begin(scene.session_id, TITLE)
        held = await scene.stack.claim(turn.turn_id)
        await held.say("one")
        log = keys.events_key(turn.turn_id)
        await scene.stack.redis.xadd(log, {"f": b"\xff\xff"}, id=f"{held.claim.fence}-2")
        held.seq = 2
        await held.say("three")
        await held.complete("one two three")
        frames = await scene.user.frames(turn.turn_id)
        assert "gap" in kinds(frames)
        assert frames[-1].outcome.text == "one two three"
        assert await scene.count(StoreOperation.EVENTS, ErrorType.SERIALIZATION) > 0


async def test_a_conflict_that_is_tried_again_is_counted_and_no_error(
    server: RedisServer, endpoint: Endpoint
) -> None:
    async with scene_on(server, endpoint, 5.0) as scene:
        with BlockingRedis.from_url(server.url) as other:
            disturbed = 0

            def writes_twice(chunk: bytes) -> bool:
                nonlocal disturbed
                if b"EXEC" in chunk and scene.session_id.encode() in chunk and disturbed < 2:
                    disturbed += 1
                    other.set(scene.record, other.get(scene.record))
                return False

            scene.way.swallow_replies(writes_twice)
            await scene.user.update(scene.session_id, title=TITLE)
        page = await scraped(endpoint.address)
        (conflicts,) = [
            sample.value
            for sample in page["maieutic_session_store_conflicts"].samples
            if sample.labels["operation"] == "update"
        ]
        assert conflicts == 2
        assert not await scene.count(StoreOperation.UPDATE, ErrorType.CONFLICT_EXHAUSTED)
