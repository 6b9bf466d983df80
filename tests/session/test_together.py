"""Changes of one session that wait for each other, and are committed in one step."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1.session_service_pb2 import Session, UpdateSessionRequest
from services.session.adapters.redis import RedisSessionStore
from services.session.errors import NotReplicated, RequestIdTaken, RevisionMismatch
from services.session.model import Draft
from services.session.ports import Reads
from services.session.updating import update
from tests.session.stored import TIMING, make, new_session, new_turn, opened, put_turn

MANY = 20


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[RedisSessionStore]:
    async with opened(store_url) as found:
        yield found


@pytest.fixture
async def session_id(store: RedisSessionStore) -> str:
    made = new_session()
    await store.transact(made, make(made))
    return made


class First:
    """A change that has its turn and is decided only when it is told to; others wait behind it."""

    def __init__(self, store: RedisSessionStore, session_id: str, reads: Reads = Reads()) -> None:  # noqa: B008 - frozen
        self._begun, self._go = asyncio.Event(), asyncio.Event()
        change = store.transact(session_id, self.decide, reads, self._prepare)
        self.task = asyncio.create_task(change)

    async def _prepare(self, _: Draft) -> None:
        self._begun.set()
        await self._go.wait()

    def decide(self, draft: Draft) -> None:
        pass

    async def begun(self) -> None:
        await self._begun.wait()

    def goes_on(self) -> None:
        self._go.set()


def titled(session_id: str, title: str, request_id: str = "") -> UpdateSessionRequest:
    request = UpdateSessionRequest(
        session_id=session_id, request_id=request_id or uuid4().hex, title=title
    )
    request.update_mask.paths.append("title")
    return request


def updating(
    store: RedisSessionStore, request: UpdateSessionRequest
) -> asyncio.Task[tuple[Session, Draft]]:
    reads = Reads(operation=request.request_id)
    change = store.transact(request.session_id, lambda draft: update(draft, request), reads)
    return asyncio.create_task(change)


def failing(change: Callable[[Draft], Any]) -> Callable[[Draft], Any]:
    def decide(draft: Draft) -> None:
        change(draft)
        raise LookupError(draft.record.session.title)

    return decide


async def lined_up() -> None:
    """Let what was started come to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def record(store: RedisSessionStore, session_id: str) -> SessionRecord:
    found = await store.session(session_id)
    assert found is not None
    return found


async def test_those_that_wait_are_committed_in_one_step_each_with_its_own_answer(
    store: RedisSessionStore, session_id: str, store_url: str
) -> None:
    first = First(store, session_id)
    await first.begun()
    tasks = [updating(store, titled(session_id, str(number))) for number in range(MANY)]
    await lined_up()
    async with Redis.from_url(store_url) as redis:
        await redis.config_resetstat()
        first.goes_on()
        answers = await asyncio.gather(*tasks)
        statistics: Any = await redis.info("commandstats")

    # The first one had read before they came.
    assert statistics["cmdstat_exec"]["calls"] == 1
    assert [session.title for session, _ in answers] == [str(number) for number in range(MANY)]
    revisions = [session.revision for session, _ in answers]
    assert revisions == sorted(set(revisions))
    assert [len(draft.out) for _, draft in answers] == [1] * MANY, "each tells of itself alone"
    assert (await record(store, session_id)).session == answers[-1][0]


async def test_a_decision_that_fails_leaves_no_trace_in_the_others(
    store: RedisSessionStore, session_id: str
) -> None:
    first = First(store, session_id)
    await first.begun()
    before = updating(store, titled(session_id, "before"))
    spoiling = titled(session_id, "spoiled")
    bad = asyncio.create_task(
        store.transact(session_id, failing(lambda draft: update(draft, spoiling)))
    )
    stale = titled(session_id, "stale")
    stale.expected_revision = 1
    late = updating(store, stale)
    after = asyncio.create_task(
        store.transact(session_id, lambda draft: draft.record.session.title)
    )
    await lined_up()
    first.goes_on()

    assert (await before)[0].title == "before"
    with pytest.raises(LookupError, match="spoiled"):
        await bad
    with pytest.raises(RevisionMismatch):
        await late
    assert (await after)[0] == "before"
    assert (await record(store, session_id)).session.title == "before"


async def test_the_failure_of_the_first_one_is_its_own(
    store: RedisSessionStore, session_id: str
) -> None:
    first = First(store, session_id)
    await first.begun()
    spoiling = titled(session_id, "spoiled")
    bad = asyncio.create_task(
        store.transact(session_id, failing(lambda draft: update(draft, spoiling)))
    )
    await lined_up()
    good = asyncio.create_task(store.transact(session_id, Draft.touch))
    await lined_up()
    first.goes_on()

    with pytest.raises(LookupError, match="spoiled"):
        await bad
    _, written = await good
    assert (await record(store, session_id)).session == written.record.session
    assert not written.record.session.title


async def test_the_same_request_twice_at_once_is_carried_out_once(
    store: RedisSessionStore, session_id: str
) -> None:
    first = First(store, session_id)
    await first.begun()
    request = titled(session_id, "once")
    tasks = [updating(store, request), updating(store, request)]
    other = updating(store, titled(session_id, "other", request.request_id))
    await lined_up()
    first.goes_on()

    (one, written), (two, nothing) = await asyncio.gather(*tasks)
    assert one == two
    assert written.writes
    assert not nothing.writes
    with pytest.raises(RequestIdTaken):
        await other


async def test_those_that_wait_go_on_when_the_first_one_is_given_up(
    store: RedisSessionStore, session_id: str
) -> None:
    first = First(store, session_id)
    await first.begun()
    leading = First(store, session_id)
    await lined_up()
    tasks = [updating(store, titled(session_id, str(number))) for number in range(3)]
    await lined_up()
    first.goes_on()
    await leading.begun()  # it was to carry them out, too
    tasks[1].cancel()
    leading.task.cancel()

    assert [(await task)[0].title for task in (tasks[0], tasks[2])] == ["0", "2"]
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


async def test_a_conflict_starts_all_of_them_again(
    store: RedisSessionStore, session_id: str, store_url: str
) -> None:
    first = First(store, session_id)
    await first.begun()
    leading = First(store, session_id)
    await lined_up()
    tasks = [updating(store, titled(session_id, str(number))) for number in range(3)]
    await lined_up()
    first.goes_on()
    await leading.begun()
    async with opened(store_url) as elsewhere:
        theirs, _ = await updating(elsewhere, titled(session_id, "theirs"))
    leading.goes_on()

    answers = [session for session, _ in await asyncio.gather(*tasks)]
    assert [session.title for session in answers] == ["0", "1", "2"]
    assert theirs.revision < answers[0].revision


async def test_all_of_them_are_told_that_no_replica_has_confirmed(
    session_id: str, store_url: str
) -> None:
    async with (
        RedisSessionStore.connect(store_url, timing=TIMING, replica_timeout=0.1) as store,
        Redis.from_url(store_url) as redis,
    ):
        first = First(store, session_id)
        await first.begun()
        tasks = [updating(store, titled(session_id, str(number))) for number in range(3)]
        await lined_up()
        await redis.config_resetstat()
        first.goes_on()

        for task in (first.task, *tasks):
            with pytest.raises(NotReplicated):
                await task
        statistics: Any = await redis.info("commandstats")
        assert statistics["cmdstat_wait"]["calls"] == 2, "the first one's, and one for all others"
        assert (await record(store, session_id)).session.title == "2"


async def test_what_needs_more_than_the_session_is_not_carried_out_by_another(
    store: RedisSessionStore, session_id: str
) -> None:
    turn_id = new_turn(session_id)
    await store.transact(session_id, put_turn(turn_id, session_id))
    first = First(store, session_id)
    await first.begun()
    plain = updating(store, titled(session_id, "plain"))
    reading = asyncio.create_task(
        store.transact(session_id, lambda draft: set(draft.turns), Reads(turns=[turn_id]))
    )
    decided: list[Draft] = []
    behind = asyncio.create_task(store.transact(session_id, decided.append))
    await lined_up()
    first.goes_on()

    assert (await reading)[0] == {turn_id}
    assert (await plain)[0].title == "plain"
    await behind
    assert len(decided) == 1


async def test_a_session_that_has_to_be_made_is_made_by_each_caller_for_itself(
    store: RedisSessionStore,
) -> None:
    session_id, here = new_session(), []
    first = First(store, session_id)
    await first.begun()

    async def prepare(draft: Draft) -> None:
        here.append(draft.session is not None)
        if draft.session is None:
            make(session_id)(draft)

    def change(draft: Draft) -> str:
        draft.touch()
        return asyncio.current_task().get_name()  # type: ignore[union-attr] # one runs

    tasks = [
        asyncio.create_task(store.transact(session_id, change, Reads(), prepare), name=name)
        for name in "abc"
    ]
    await lined_up()
    first.goes_on()

    ran = [(await task)[0] for task in tasks]
    assert here == [False, True, True]
    assert ran[0] == "a"
    assert ran[1:] == ["b", "b"], "once it is there they go along"
