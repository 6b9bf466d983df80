"""Retries at Pinecone: what is tried again, how long is waited, and when a host is left alone."""

import asyncio

import httpx
import pytest
from pinecone import PineconeConnectionError, PineconeTimeoutError, PineconeValueError

from services.retrieval.adapters.breaker import Breaker
from services.retrieval.adapters.pinecone_calls import Calls, Retries
from services.retrieval.adapters.pinecone_faults import Fault, Kind, fault_of
from services.retrieval.errors import IndexRefused
from services.retrieval.settings import PineconeOptions


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


@pytest.mark.parametrize(("kind", "retries"), [(Kind.BROKEN, 2), (Kind.LOST, 6), (Kind.DENIED, 0)])
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

    def calls(self) -> Calls[CountedHandle]:
        def opened() -> CountedHandle:
            self.made.append(CountedHandle())
            return self.made[-1]

        return Calls("host", PineconeOptions(backoff=0.0, reconnects=4), opened)


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
    for _ in range(2):
        task.cancel()
        await asyncio.wait([task], timeout=0.02)
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


def test_a_host_is_left_alone_after_failures_in_a_row() -> None:
    clock = Clock()
    breaker = Breaker(failures=3, pause=5, clock=clock)
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert breaker.admit() is None
    breaker.failed()
    clock.now = 1.0
    assert breaker.admit() == 4.0


@pytest.mark.parametrize(("outcome", "open_again"), [("succeeded", False), ("failed", True)])
def test_after_the_pause_one_caller_finds_out_for_all(outcome: str, *, open_again: bool) -> None:
    clock = Clock()
    breaker = Breaker(failures=1, pause=5, clock=clock)
    breaker.failed()
    clock.now = 5.0
    assert breaker.admit() is None
    assert breaker.admit() == 5.0
    getattr(breaker, outcome)()
    assert (breaker.admit() is not None) is open_again


def test_a_caller_who_gives_up_leaves_the_finding_out_to_the_next() -> None:
    clock = Clock()
    breaker = Breaker(failures=1, pause=5, clock=clock)
    breaker.failed()
    clock.now = 5.0
    assert breaker.admit() is None
    breaker.released()
    assert breaker.admit() is None
