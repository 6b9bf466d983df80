"""Retries at Pinecone: what is tried again, how long is waited, and when a host is left alone."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pinecone import PineconeConnectionError, PineconeTimeoutError, PineconeValueError

from services.retrieval.adapters.breaker import Breaker, LeftAlone
from services.retrieval.adapters.pinecone_calls import Calls, Retries
from services.retrieval.adapters.pinecone_faults import Fault, Kind, fault_of
from services.retrieval.errors import IndexDamaged, IndexRefused, IndexUnavailable
from services.retrieval.settings import PineconeOptions
from services.runtime.errors import ServiceError
from services.runtime.names import INDEX_ATTEMPT, INDEX_ATTEMPTS, INDEX_OUTCOME
from tests.recorded import recording


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Cannot send a request, as the client has been closed."),
        RuntimeError("Session is closed"),
        RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"),
        PineconeConnectionError("Server disconnected without sending a response."),
        httpx.ReadError(""),
        ConnectionResetError(),
        BrokenPipeError(),
    ],
)
def test_a_closed_or_lost_connection_is_known_in_every_spelling(error: Exception) -> None:
    fault = fault_of(error)
    assert fault
    assert fault.kind is Kind.LOST


@pytest.mark.parametrize(
    "error", [TimeoutError(), PineconeTimeoutError("x"), httpx.ReadTimeout("x")]
)
def test_a_timeout_is_known_in_every_spelling(error: Exception) -> None:
    fault = fault_of(error)
    assert fault
    assert fault.kind is Kind.TIMEOUT


def test_a_bug_is_no_fault_of_the_index() -> None:
    assert fault_of(RuntimeError("dictionary changed size during iteration")) is None
    fault = fault_of(PineconeValueError("top_k must be positive"))
    assert fault
    assert fault.kind is Kind.REFUSED


def waits(kind: Kind, *, times: int, left: float | None = None) -> list[float | None]:
    options = PineconeOptions(attempts=3, reconnects=6, backoff=0.1, longest_backoff=0.5)
    retries = Retries(options)
    return [retries.wait_after(Fault(kind=kind), left=left) for _ in range(times)]


@pytest.mark.parametrize(
    ("kind", "retries"),
    [
        (Kind.BROKEN, 2),
        (Kind.TIMEOUT, 2),
        (Kind.LOST, 6),
        (Kind.THROTTLED, 6),
        (Kind.BUSY, 6),
        (Kind.DENIED, 0),
    ],
)
def test_each_kind_of_fault_has_its_number_of_retries(kind: Kind, retries: int) -> None:
    assert [wait is not None for wait in waits(kind, times=8)] == [n < retries for n in range(8)]


def test_waits_are_drawn_from_nothing_to_a_bound_that_doubles_to_its_end() -> None:
    drawn = [waits(Kind.LOST, times=6) for _ in range(300)]
    longest = [max(wait or 0 for wait in column) for column in zip(*drawn, strict=True)]
    for most, bound in zip(longest, [0.1, 0.2, 0.4, 0.5, 0.5, 0.5], strict=True):
        assert 0.8 * bound < most <= bound
    assert min(wait or 0 for row in drawn for wait in row) < 0.01


def test_no_wait_is_longer_than_what_the_caller_has_left() -> None:
    options = PineconeOptions(backoff=0.0)
    fault = Fault(kind=Kind.THROTTLED, retry_after=2.0)
    assert Retries(options).wait_after(fault, left=3.0) == 2.0
    assert Retries(options).wait_after(fault, left=None) == 2.0
    assert Retries(options).wait_after(fault, left=1.0) is None
    assert Retries(options).wait_after(fault, left=0.0) is None


class CountedHandle:
    """Takes a moment to close, as a connection does."""

    def __init__(self) -> None:
        self.closed = False
        self.may_close = asyncio.Event()
        self.may_close.set()

    async def close(self) -> None:
        await self.may_close.wait()
        self.closed = True


class Handles:
    """Makes handles, and keeps them to be looked at."""

    def __init__(self) -> None:
        self.made: list[CountedHandle] = []

    def calls(self, **settings: Any) -> Calls[CountedHandle]:
        def opened() -> CountedHandle:
            self.made.append(CountedHandle())
            return self.made[-1]

        options = replace(PineconeOptions(backoff=0.0, reconnects=4), **settings)
        return Calls("host", options, opened)


async def test_every_attempt_has_a_handle_of_its_own_which_is_closed_before_the_next() -> None:
    handles = Handles()
    used: list[CountedHandle] = []

    async def work(handle: CountedHandle) -> str:
        assert all(one.closed for one in used)
        used.append(handle)
        if len(used) < 4:
            raise PineconeConnectionError("lost")
        return "done"

    assert await handles.calls().run("work", work) == "done"
    assert used == handles.made
    assert len(used) == 4
    assert all(one.closed for one in used)


@pytest.mark.parametrize("error", [PineconeValueError("wrong"), KeyError("a bug")])
async def test_a_handle_is_closed_after_an_error(error: Exception) -> None:
    handles = Handles()

    async def work(_: CountedHandle) -> None:
        raise error

    with pytest.raises((IndexRefused, KeyError)):
        await handles.calls().run("work", work)
    assert [one.closed for one in handles.made] == [True]


async def test_a_handle_is_closed_though_its_caller_is_cancelled_twice() -> None:
    handles = Handles()
    calls, begun = handles.calls(), asyncio.Event()

    async def work(handle: CountedHandle) -> None:
        handle.may_close.clear()
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(calls.run("work", work))
    await begun.wait()
    for patience in (0.02, 5):
        task.cancel()
        await asyncio.wait([task], timeout=patience)
    assert task.cancelled()
    (handle,) = handles.made
    assert not handle.closed
    handle.may_close.set()
    await calls.closed()
    assert handle.closed


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def wait_of(breaker: Breaker) -> float:
    """Return for how long the host is left alone."""
    with pytest.raises(LeftAlone) as alone:
        breaker.admit()
    return alone.value.wait


def opened(clock: Clock, *, failures: int = 1) -> Breaker:
    """Return a breaker that was opened now, by so many failures, and would close in 5 seconds."""
    breaker = Breaker(failures=failures, pause=5, clock=clock)
    for era in [breaker.admit() for _ in range(failures)]:
        breaker.failed(era)
    return breaker


def test_a_host_is_left_alone_after_failures_in_a_row() -> None:
    clock = Clock()
    breaker = Breaker(failures=3, pause=5, clock=clock)
    for _ in range(2):
        assert not breaker.failed(breaker.admit())
    breaker.succeeded(breaker.admit())
    for _ in range(2):
        assert not breaker.failed(breaker.admit())
    assert breaker.failed(breaker.admit())
    clock.now = 1.0
    assert wait_of(breaker) == 4.0


def test_a_probe_that_succeeds_lets_all_in_again() -> None:
    clock = Clock()
    breaker = opened(clock, failures=3)
    clock.now = 5.0
    probe = breaker.admit()
    assert wait_of(breaker) == 5.0
    breaker.succeeded(probe)
    # The row of failures begins anew.
    assert not any(breaker.failed(breaker.admit()) for _ in range(2))
    breaker.admit()


def test_a_probe_that_fails_leaves_the_host_alone_for_another_pause() -> None:
    clock = Clock()
    breaker = opened(clock, failures=3)
    clock.now = 5.0
    assert breaker.failed(breaker.admit())
    clock.now = 6.0
    assert wait_of(breaker) == 4.0
    clock.now = 10.0
    breaker.admit()


def test_a_caller_who_gives_up_leaves_the_finding_out_to_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 5.0
    breaker.released(breaker.admit())
    breaker.admit()


@pytest.mark.parametrize("report", ["failed", "succeeded", "released"])
def test_who_began_before_the_host_was_left_alone_lets_no_second_probe_through(
    report: str,
) -> None:
    clock = Clock()
    breaker = Breaker(failures=1, pause=5, clock=clock)
    late, first = breaker.admit(), breaker.admit()
    breaker.failed(first)
    clock.now = 5.0
    probe = breaker.admit()
    getattr(breaker, report)(late)
    # However long the probe takes.
    clock.now = 20.0
    assert wait_of(breaker) == 5.0
    breaker.succeeded(probe)
    breaker.admit()


class Outcomes:
    """Work that goes as it is told, once for each attempt."""

    def __init__(self, *outcomes: BaseException | None) -> None:
        self._outcomes = iter(outcomes)

    async def __call__(self, _: CountedHandle) -> None:
        if (outcome := next(self._outcomes)) is not None:
            raise outcome


@pytest.mark.parametrize(
    ("work", "counted"),
    [
        (Outcomes(None), [(1, "ok")]),
        (
            Outcomes(PineconeConnectionError("lost"), PineconeTimeoutError("late"), None),
            [(1, "lost"), (2, "timeout"), (3, "ok")],
        ),
        (Outcomes(PineconeValueError("wrong")), [(1, "refused")]),
        (Outcomes(IndexDamaged("foreign records")), [(1, "damaged")]),
        (Outcomes(KeyError("a bug")), [(1, "bug")]),
        (Outcomes(asyncio.CancelledError()), [(1, "cancelled")]),
    ],
)
async def test_each_attempt_is_counted_once_by_its_number_and_outcome(
    work: Outcomes, counted: list[tuple[int, str]]
) -> None:
    async with recording() as recorded:
        with suppress(ServiceError, KeyError, asyncio.CancelledError):
            await Handles().calls().run("work", work)
    points = recorded.points(INDEX_ATTEMPTS, INDEX_ATTEMPT, INDEX_OUTCOME)
    assert {key: one.value for key, one in points.items()} == dict.fromkeys(counted, 1)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    """Return what was logged, with what was told besides."""
    told = ("operation", "host", "attempt", "of", "fault", "wait", "pause")
    return [
        (one.getMessage(), {name: vars(one)[name] for name in told if name in vars(one)})
        for one in caplog.records
        if one.name.endswith("pinecone_calls")
    ]


async def test_the_log_says_what_is_tried_again_and_what_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "services.retrieval")
    lost, wrong = PineconeConnectionError("lost"), PineconeValueError("wrong")
    with pytest.raises(IndexRefused):
        await Handles().calls().run("work", Outcomes(lost, wrong))
    about = {"operation": "work", "host": "host", "of": 7}
    assert logged(caplog) == [
        ("vector index: connecting", {**about, "attempt": 1}),
        ("vector index: recreating", {**about, "attempt": 1, "fault": "lost", "wait": 0.0}),
        ("vector index: connecting", {**about, "attempt": 2}),
        ("vector index: giving up", {**about, "attempt": 2, "fault": "refused"}),
    ]


async def test_the_log_says_once_that_a_host_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = Handles().calls(breaker_failures=2, breaker_pause=9.0)
    for _ in range(3):
        with pytest.raises(IndexUnavailable):
            await calls.run("work", Outcomes(*(PineconeConnectionError("lost"),) * 2))
    alone = ("vector index: left alone", {"host": "host", "pause": 9.0})
    assert logged(caplog).count(alone) == 1
