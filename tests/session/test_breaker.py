"""Calls to a store that has failed for long are refused at once, and one at a time probes it."""

import asyncio
import logging
from collections.abc import Awaitable

import pytest

from services.runtime import names
from services.session.adapters.breaker import PROBE_SECONDS, Breaker
from services.session.adapters.passing import NotAsked
from services.session.errors import StoreUnavailable
from tests.backends.redis import RedisServer
from tests.proxy import Direction, proxy
from tests.recorded import recording
from tests.session.stored import back, changed, count, counted, make, new_session, opened

PATIENCE = 5.0


class Clocked:
    """A breaker, and the time that it sees."""

    def __init__(self) -> None:
        self.now = 100.0
        self.breaker = Breaker("here:1", PATIENCE, clock=lambda: self.now)

    def fail(self, *, after: float) -> None:
        self.now += after
        self.breaker.failed()

    def admits(self) -> bool:
        try:
            self.breaker.admit()
        except NotAsked:
            return False
        return True


def opened_breaker() -> Clocked:
    clocked = Clocked()
    clocked.fail(after=0)
    clocked.fail(after=PATIENCE)
    assert not clocked.admits()
    return clocked


def test_it_opens_after_failures_for_as_long_as_an_operation_may_take() -> None:
    clocked = Clocked()
    clocked.fail(after=0)
    clocked.fail(after=PATIENCE - 0.1)
    assert clocked.admits()
    clocked.fail(after=0.1)
    assert not clocked.admits()


def test_an_answer_between_failures_starts_the_time_again() -> None:
    clocked = Clocked()
    for _ in range(5):
        clocked.fail(after=PATIENCE - 1)
        clocked.breaker.answered()
        assert clocked.breaker.failing_since is None
    assert clocked.admits()


def test_one_caller_at_a_time_probes() -> None:
    clocked = opened_breaker()
    for _ in range(3):
        clocked.now += PROBE_SECONDS
        assert [clocked.admits() for _ in range(5)] == [True, False, False, False, False]
        clocked.fail(after=PATIENCE / 2)
        assert not clocked.admits()


def test_a_probe_that_never_reports_is_followed_by_another_one() -> None:
    clocked = opened_breaker()
    clocked.now += PROBE_SECONDS
    assert clocked.admits()
    clocked.now += PATIENCE - 0.1
    assert not clocked.admits()
    clocked.now += 0.1
    assert clocked.admits()


def test_a_probe_that_is_answered_lets_everybody_through() -> None:
    clocked = opened_breaker()
    clocked.now += PROBE_SECONDS
    assert clocked.admits()
    clocked.breaker.answered()
    assert all(clocked.admits() for _ in range(5))
    clocked.fail(after=1)
    assert clocked.admits(), "one failure is none"


def was_refused(error: object) -> bool:
    """Whether the store was not even asked."""
    return isinstance(error, StoreUnavailable) and isinstance(error.__cause__, NotAsked)


async def failure(call: Awaitable[object]) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as raised:
        await call
    return raised.value


@pytest.mark.parametrize("outage", ["refuses", "hangs"])
async def test_a_store_that_is_away_for_long_refuses_calls_without_asking_and_comes_back(
    valkey_server: RedisServer, caplog: pytest.LogCaptureFixture, outage: str
) -> None:
    caplog.set_level(logging.WARNING)
    async with (
        recording() as recorded,
        proxy(valkey_server.port) as way,
        opened(f"redis://127.0.0.1:{way.port}/0", timeout=0.3) as store,
    ):
        session_id = new_session()
        await changed(store, session_id, make(session_id))
        if outage == "hangs":
            way.pause(Direction.TO_CLIENT)
        else:
            await way.refuse()
        while not was_refused(await failure(store.transact(session_id, count("mine")))):
            pass  # the first ones wait for nothing
        asked = way.accepted
        refused = await asyncio.gather(
            *(store.transact(session_id, count(f"{n}")) for n in range(20)),
            *(store.session(session_id) for _ in range(20)),
            return_exceptions=True,
        )
        assert all(isinstance(error, StoreUnavailable) for error in refused)
        # Whoever came when a probe was due has asked; all others were answered from here.
        assert sum(map(was_refused, refused)) >= 36
        assert way.accepted <= asked + 4
        way.resume(Direction.TO_CLIENT)
        way.accept()
        await back(store)
        await changed(store, session_id, count("again"))
        points = recorded.points(names.STORE_BREAKER, names.BREAKER_CHANGE)
        assert {key: point.value for key, point in points.items()} == {
            ("opened",): 1,
            ("closed",): 1,
        }
        assert await counted(store, session_id) == 1
    texts = [r.getMessage() for r in caplog.records if r.name.endswith("breaker")]
    assert len(texts) == 2
    assert texts[0].startswith(f"calls to the store are refused: 127.0.0.1:{way.port} has not")
    assert texts[1].startswith("calls to the store are let through: ")
