"""The contract of the session store, on Valkey and Redis: one server, Sentinel and Cluster."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionChanged
from maieutic.session.v1.record_pb2 import Operation, SessionRecord, TurnRecord
from maieutic.v1.session_service_pb2 import SessionFrame
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    BUSY_POLICY_INTERRUPT,
    TURN_STATE_COMPLETED,
    TurnFrame,
)
from services.runtime import deadline
from services.session.adapters import keys
from services.session.adapters.codec import encode
from services.session.adapters.redis import RedisSessionStore
from services.session.beginning import begin
from services.session.ending import Ending, end
from services.session.errors import (
    ConflictExhausted,
    StoreFull,
    StoreUnavailable,
)
from services.session.ids import Ids, shard_of
from services.session.model import (
    LOG_FRAMES,
    STUB,
    TERMINAL,
    Draft,
    EventId,
    Timing,
    user_message,
)
from services.session.ports import Append, AppendOutcome, Damage, Reads
from tests.backends.redis import RedisServer, valkey
from tests.proxy import Direction, Proxy, proxy
from tests.session.stored import (
    TIMING,
    appended,
    back,
    changed,
    count,
    counted,
    frames,
    make,
    new_session,
    new_turn,
    opened,
    put_turn,
    say,
)
from tests.waiting import wait_until


@pytest.fixture(params=["valkey_server", "redis_node"])
def server(request: pytest.FixtureRequest) -> RedisServer:
    found: RedisServer = request.getfixturevalue(request.param)
    return found


class Site(Protocol):
    """Where a store can stand."""

    @property
    def url(self) -> str: ...

    def client(self) -> AbstractAsyncContextManager[Redis]: ...


@pytest.fixture(params=["valkey_server", "redis_node", "watched_primary", "small_cluster"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def store(site: Site) -> AsyncIterator[RedisSessionStore]:
    async with opened(site.url) as found:
        yield found


@pytest.fixture
async def redis(site: Site) -> AsyncIterator[Redis]:
    async with site.client() as client:
        yield client


@asynccontextmanager
async def proxied(server: RedisServer) -> AsyncIterator[tuple[Proxy, RedisSessionStore]]:
    """Open an impatient store whose link can be broken."""
    async with (
        proxy(server.port) as link,
        opened(f"redis://127.0.0.1:{link.port}/0", timeout=0.3) as found,
    ):
        yield link, found


async def test_writers_of_one_session_lose_nothing_though_replies_to_exec_are_lost(
    server: RedisServer,
) -> None:
    session_id, chance = new_session(), random.Random(7)
    swallowed = 0

    def tenth_exec(chunk: bytes) -> bool:
        nonlocal swallowed
        lost = b"EXEC" in chunk and chance.random() < 0.1
        swallowed += lost
        return lost

    async with proxy(server.port) as link:
        url = f"redis://127.0.0.1:{link.port}/0"
        # Two stores: the lock within one of them must not be what keeps the writers apart.
        async with opened(url, 30) as one, opened(url, 30) as two:
            await one.transact(session_id, make(session_id))
            link.swallow_replies(tenth_exec)

            async def writer(number: int) -> None:
                store = (one, two)[number % 2]
                for update in range(30):
                    await store.transact(session_id, count(f"{number}.{update}"))

            await asyncio.gather(*map(writer, range(16)))
            link.swallow_replies(lambda _: False)
            assert swallowed > 3
            assert await counted(one, session_id) == 16 * 30


async def test_a_connection_killed_between_watch_and_exec_is_a_conflict(
    server: RedisServer,
) -> None:
    async with opened(server.url) as store, server.client() as redis:
        await kill_between_watch_and_exec(server, store, redis)


async def kill_between_watch_and_exec(
    server: RedisServer, store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))
    attempts = 0

    async def killed(draft: Draft) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            mine = await redis.client_id()
            others = [c for c in await redis.client_list() if int(c["id"]) != mine]
            # What another writer does now must not be overwritten.
            async with opened(server.url) as other:
                await other.transact(session_id, count("other"))
            for client in others:
                await redis.client_kill_filter(_id=client["id"])

    await store.transact(session_id, count("mine"), Reads(), killed)
    assert attempts > 1
    assert await counted(store, session_id) == 2


async def test_a_write_of_somebody_else_after_the_reads_is_a_conflict(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)
    await store.transact(session_id, make(session_id))
    attempts = 0

    async def disturbed(_: Draft) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            # An absent key is watched, too.
            await redis.set(keys.turn_key(turn_id), b"x")
            await redis.delete(keys.turn_key(turn_id))

    await store.transact(session_id, count("mine"), Reads(turns=[turn_id]), disturbed)
    assert attempts == 2


async def test_writers_that_never_win_give_up_at_the_callers_deadline(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))

    async def disturbed(_: Draft) -> None:
        await redis.persist(keys.record_key(session_id))
        await redis.pexpire(keys.record_key(session_id), 60_000)

    with deadline.within(0.3), pytest.raises(ConflictExhausted):
        await store.transact(session_id, count("mine"), Reads(), disturbed)
    assert await counted(store, session_id) == 0


async def test_what_a_decision_raises_writes_nothing_and_leaves_the_connection_in_order(
    store: RedisSessionStore,
) -> None:
    session_id = new_session()

    def refused(draft: Draft) -> None:
        make(session_id)(draft)
        raise KeyError

    for _ in range(3):
        with pytest.raises(KeyError):
            await store.transact(session_id, refused)
    assert await store.session(session_id) is None


async def test_a_server_without_memory_refuses_writes_and_nothing_is_written() -> None:
    async with valkey() as full, opened(full.url) as store, Redis.from_url(full.url) as redis:
        session_id = new_session()
        await store.transact(session_id, make(session_id))
        await redis.config_set("maxmemory", "1")
        with pytest.raises(StoreFull):
            await store.transact(session_id, count("mine"))
        assert (await store.pressure()).memory_share > 1
        await redis.config_set("maxmemory", "0")
        assert await counted(store, session_id) == 0
        await store.transact(session_id, count("mine"))


async def test_half_a_write_is_not_silent(store: RedisSessionStore, redis: Redis) -> None:
    session_id = new_session()
    await redis.set(keys.messages_key(session_id), "no hash")
    await store.transact(session_id, make(session_id))
    with pytest.raises(StoreUnavailable):
        await store.transact(session_id, say("hello"))


async def test_a_server_that_hangs_is_unavailable_in_time(server: RedisServer) -> None:
    async with proxied(server) as (link, store):
        session_id = new_session()
        await changed(store, session_id, make(session_id))
        async with link.paused(Direction.TO_CLIENT):
            for call in (
                lambda: store.session(session_id),
                lambda: store.transact(session_id, count("mine")),
                store.pressure,
                lambda: store.forget_due(new_turn(session_id)),
            ):
                with pytest.raises(StoreUnavailable):
                    await call()
        await back(store)
        await changed(store, session_id, count("again"))


async def test_an_outage_is_unavailable_and_over_when_it_is_over(server: RedisServer) -> None:
    async with proxied(server) as (link, store):
        session_id = new_session()
        await changed(store, session_id, make(session_id))
        async with link.outage():
            with pytest.raises(StoreUnavailable):
                await store.session(session_id)
            with pytest.raises(StoreUnavailable):
                await store.transact(session_id, count("mine"))
        await back(store)
        await changed(store, session_id, count("mine"))
        assert await counted(store, session_id) == 1


async def test_a_cancellation_is_never_lost(server: RedisServer) -> None:
    async with opened(server.url, connections=4) as store:
        session_id = new_session()
        await store.transact(session_id, make(session_id))
        for call in (
            store.pressure,
            store.out_shards,
            lambda: store.session(session_id),
            lambda: store.transact(session_id, count("mine")),
        ):
            for steps in range(60):
                task: asyncio.Task[object] = asyncio.ensure_future(call())
                for _ in range(steps):
                    await asyncio.sleep(0)
                if task.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await task
        # No connection was lost, and none answers for another.
        await asyncio.gather(*(store.session(session_id) for _ in range(20)))
        record = await store.session(session_id)
        assert record is not None
        assert record.session.session_id == session_id


async def test_an_append_needs_a_log(store: RedisSessionStore) -> None:
    assert await appended(store, new_turn(new_session()), 1, 1) == AppendOutcome.MISSING


async def test_an_append_is_applied_once(store: RedisSessionStore) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)
    await store.transact(session_id, put_turn(turn_id, session_id))
    for _ in range(3):
        assert await appended(store, turn_id, 5, 1, 3) == AppendOutcome.APPLIED
    # A batch sent again with more at its end, as after a reply that was lost.
    assert await appended(store, turn_id, 5, 2, 4) == AppendOutcome.APPLIED
    log = await store.events(turn_id, None, 100)
    assert [at for at, _ in log or ()] == [(5, seq) for seq in range(6)]


async def test_a_log_keeps_its_newest_frames_and_its_appends_stay_what_they_are(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)
    await store.transact(session_id, put_turn(turn_id, session_id))
    batches = [(5, 1 + 90 * n, 90) for n in range(30)]
    for fence, seq, number in (*batches, (5, 2701, 1)):
        assert await appended(store, turn_id, fence, seq, number) == AppendOutcome.APPLIED
    assert LOG_FRAMES <= await redis.xlen(keys.events_key(turn_id)) < LOG_FRAMES + 300
    assert await appended(store, turn_id, 5, 2701) == AppendOutcome.APPLIED
    assert await appended(store, turn_id, 4, 2702) == AppendOutcome.FENCED
    oldest = await store.events(turn_id, None, 1) or []
    newest = await store.events(turn_id, EventId(5, 2699), 10) or []
    assert oldest[0][0].seq > 400
    assert [at.seq for at, _ in newest] == [2700, 2701]


def happen(*turn_ids: str) -> Callable[[Draft], None]:
    def decide(draft: Draft) -> None:
        for turn_id in turn_ids:
            draft.log(SessionFrame(turn_id=turn_id))

    return decide


async def test_a_sessions_log_is_read_with_the_session_from_any_of_its_entries_on(
    store: RedisSessionStore,
) -> None:
    session_id = new_session()
    nothing = await store.look_at_session(session_id, None, 10)
    assert (nothing.record, nothing.entries) == (None, [])
    await store.transact(session_id, make(session_id))
    await store.transact(session_id, happen("before anybody watched"))
    assert not (await store.look_at_session(session_id, None, 10)).entries
    await store.transact(session_id, Draft.begin_log)
    await store.transact(session_id, happen("a", "b"))
    await store.transact(session_id, happen("c"))
    whole = (await store.look_at_session(session_id, EventId(0, 0), 10)).entries
    assert [frame.turn_id for _, frame in whole if frame] == ["", "a", "b", "c"]
    last = await store.look_at_session(session_id, None, 10)
    assert last.record is not None
    assert (last.record.logged, last.entries) == (True, whole[-1:])
    for place, (entry, _) in enumerate(whole):
        look = await store.look_at_session(session_id, entry, 2)
        assert look.entries == whole[place : place + 2]


async def test_a_zombies_append_is_fenced(store: RedisSessionStore) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)
    await store.transact(session_id, put_turn(turn_id, session_id))
    assert await appended(store, turn_id, 5, 1) == AppendOutcome.APPLIED

    def claimed_by_another(draft: Draft) -> None:
        draft.events.append((turn_id, EventId(9, 0), TurnFrame(turn_id=turn_id)))

    await store.transact(session_id, claimed_by_another)
    assert await appended(store, turn_id, 5, 2) == AppendOutcome.FENCED
    assert await appended(store, turn_id, 9, 1) == AppendOutcome.APPLIED


async def test_appends_of_many_turns_fare_each_on_its_own(store: RedisSessionStore) -> None:
    session_id = new_session()
    good, missing, fenced = (new_turn(session_id) for _ in range(3))
    for turn_id in (good, fenced):
        await store.transact(session_id, put_turn(turn_id, session_id))
    await appended(store, fenced, 9, 0)
    outcomes = await store.append(
        [
            Append(turn_id=turn_id, first=EventId(5, 1), frames=frames(turn_id, 2))
            for turn_id in (missing, good, fenced)
        ]
    )
    assert outcomes == [AppendOutcome.MISSING, AppendOutcome.APPLIED, AppendOutcome.FENCED]


async def test_a_log_is_read_in_pages_from_any_place(store: RedisSessionStore) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)
    assert await store.events(turn_id, None, 10) is None
    await store.transact(session_id, put_turn(turn_id, session_id))
    await appended(store, turn_id, 5, 1, 9)
    first = await store.events(turn_id, None, 4)
    rest = await store.events(turn_id, EventId(5, 3), 100)
    assert [at.seq for at, _ in first or ()] == [0, 1, 2, 3]
    assert [at.seq for at, _ in rest or ()] == [4, 5, 6, 7, 8, 9]
    assert await store.events(turn_id, EventId(5, 9), 10) == []


async def test_a_damaged_frame_is_left_out_of_its_log(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)
    await store.transact(session_id, put_turn(turn_id, session_id))
    await appended(store, turn_id, 5, 1)
    await redis.xadd(keys.events_key(turn_id), {"f": b"\xff\xff"}, id="5-2")
    await appended(store, turn_id, 5, 3)
    page = await store.events(turn_id, None, 10)
    assert page is not None
    assert [at.seq for at, _ in page] == [0, 1, 3]


@pytest.mark.parametrize("meet", ["read", "append", "transact"])
async def test_a_log_of_another_type_is_put_aside_and_counts_as_gone(
    store: RedisSessionStore, redis: Redis, meet: str
) -> None:
    session_id = new_session()
    turn_id, other = new_turn(session_id), new_turn(session_id)
    for turn in (turn_id, other):
        await store.transact(session_id, put_turn(turn, session_id))
    log = keys.events_key(turn_id)
    await redis.delete(log)
    await redis.set(log, "no stream")
    if meet == "read":
        assert await store.events(turn_id, None, 10) is None
    elif meet == "append":
        frame = Append(turn_id=turn_id, first=EventId(5, 1), frames=frames(turn_id, 1))
        others = Append(turn_id=other, first=EventId(5, 1), frames=frames(other, 1))
        outcomes = await store.append([frame, others])
        assert outcomes == [AppendOutcome.MISSING, AppendOutcome.APPLIED]
    else:
        reads = Reads(turns=[turn_id, other], tails=True)
        found, _ = await store.transact(session_id, lambda draft: {*draft.tails}, reads)
        assert found == {other}
    assert not await redis.exists(log)
    (newest,), _ = await store.put_aside(None, 1)
    assert (newest.key, newest.damage) == (f"t:{turn_id}:ev", Damage.WRONG_TYPE)


async def test_a_settled_session_expires_and_its_record_goes_before_its_parts(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    record, parts = keys.record_key(session_id), keys.messages_key(session_id)
    await store.transact(session_id, make(session_id))
    await store.transact(session_id, say("hello"))
    assert 0 < await redis.pttl(record) <= TIMING.idle
    assert await redis.pttl(parts) >= await redis.pttl(record) + 59_000
    found = await store.session(session_id)
    assert found is not None
    assert found.session.HasField("expire_time")


async def test_a_session_with_anything_unarchived_does_not_expire(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))
    await store.transact(session_id, say("hello"))

    def unsettled(draft: Draft) -> None:
        draft.record.session.active_turn_id = "t"
        draft.session_changed = True

    await store.transact(session_id, unsettled)
    assert await redis.pttl(keys.record_key(session_id)) == -1
    assert await redis.pttl(keys.messages_key(session_id)) == -1
    found = await store.session(session_id)
    assert found is not None
    assert not found.session.HasField("expire_time")


async def test_reading_puts_the_expiry_off_but_seldom(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    record = keys.record_key(session_id)
    await store.transact(session_id, make(session_id))
    await redis.pexpire(record, TIMING.idle - 1_000)
    await store.keep_alive(session_id)
    assert await redis.pttl(record) <= TIMING.idle - 1_000, "not worth aborting a writer for"
    await redis.pexpire(record, 1_000)
    await store.keep_alive(session_id)
    assert await redis.pttl(record) > TIMING.idle - 1_000
    await redis.persist(record)
    await store.keep_alive(session_id)
    assert await redis.pttl(record) == -1


async def test_the_time_left_is_told_for_what_expires(
    store: RedisSessionStore, redis: Redis
) -> None:
    settled, busy = new_session(), new_session()
    await store.transact(settled, make(settled))
    await store.transact(busy, make(busy, archived=False))
    left = await store.time_left([settled, busy, new_session()])
    assert TIMING.idle - 10_000 < left[0] <= TIMING.idle
    assert left[1:] == [0, 0]
    await redis.pexpire(keys.record_key(settled), 1_000)
    record, soon = await store.session_and_time_left(settled)
    assert record is not None
    assert 0 < soon <= 1_000
    assert await store.keep_alive(settled, soon) == TIMING.idle
    assert await store.keep_alive(busy) == 0
    assert (await store.session_and_time_left(busy))[1] == 0
    assert await store.session_and_time_left(new_session()) == (None, 0)


async def test_a_marker_is_written_with_its_change_and_found_by_its_request(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))

    def carry_out(draft: Draft) -> Operation | None:
        if draft.operation is None:
            count("n")(draft)
            draft.carried_out = "r1", Operation(request_hash=b"h", revision=7)
        return draft.operation

    first, _ = await store.transact(session_id, carry_out, Reads(operation="r1"))
    again, _ = await store.transact(session_id, carry_out, Reads(operation="r1", window=True))
    assert (first, again) == (None, Operation(request_hash=b"h", revision=7))
    assert await counted(store, session_id) == 1
    _, other = await store.transact(session_id, lambda _: None, Reads(operation="r2"))
    assert other.operation is None
    marker = keys.operation_key(session_id, "r1")
    assert TIMING.stub - 10_000 < await redis.pttl(marker) <= TIMING.stub


def annotated(draft: Draft) -> None:
    draft.kept_annotations.notes.add(note_id="n", text="kept")
    draft.annotate()


async def test_notes_are_read_when_asked_for_and_live_as_long_as_their_session(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    record, notes = keys.record_key(session_id), keys.annotations_key(session_id)
    await store.transact(session_id, make(session_id))
    await store.transact(session_id, annotated, Reads(annotations=True))
    _, without = await store.transact(session_id, lambda _: None, Reads(window=True))
    assert without.annotations is None
    reads = Reads(annotations=True, window=True, operation="r")
    _, draft = await store.transact(session_id, lambda _: None, reads)
    assert [note.text for note in draft.kept_annotations.notes] == ["kept"]
    assert await redis.pttl(record) == await redis.pttl(notes) == -1

    def archived(draft: Draft) -> None:
        draft.record.archived_revision = draft.record.session.revision
        draft.session_changed = True

    await store.transact(session_id, archived)
    assert await redis.pttl(record) == -1, "its notes are not archived"

    def annotations_archived(draft: Draft) -> None:
        draft.record.archived_annotations_revision = draft.record.annotations_revision
        draft.session_changed = True

    await store.transact(session_id, annotations_archived)
    assert 0 < await redis.pttl(record) <= TIMING.idle
    assert await redis.pttl(notes) >= await redis.pttl(record) + 59_000
    await redis.pexpire(record, 1_000)
    await redis.pexpire(notes, 1_500)
    await store.keep_alive(session_id)
    assert await redis.pttl(notes) >= await redis.pttl(record) + 59_000


@pytest.mark.parametrize("wrong", ["missing", "old", "damaged"])
async def test_a_session_without_its_own_notes_counts_as_gone(
    store: RedisSessionStore, redis: Redis, wrong: str
) -> None:
    session_id = new_session()
    notes = keys.annotations_key(session_id)
    await store.transact(session_id, make(session_id))
    await store.transact(session_id, annotated, Reads(annotations=True))
    old = await redis.get(notes)
    await store.transact(session_id, annotated, Reads(annotations=True))
    if wrong == "missing":
        await redis.delete(notes)
    else:
        await redis.set(notes, old or "" if wrong == "old" else b"\x01garbage")
    found, draft = await store.transact(
        session_id, lambda draft: draft.session, Reads(annotations=True)
    )
    assert found is None
    assert draft.annotations is None


async def test_a_session_with_a_missing_part_counts_as_gone(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))
    await store.transact(session_id, say("hello"))
    await redis.delete(keys.messages_key(session_id))
    gone, _ = await store.transact(
        session_id, lambda draft: draft.session is None, Reads(window=True)
    )
    assert gone


async def test_a_damaged_record_is_put_aside_and_counts_as_gone(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))
    await flip_a_bit(redis, keys.record_key(session_id))
    assert await store.session(session_id) is None
    gone, _ = await store.transact(session_id, lambda draft: draft.session is None)
    assert gone
    pattern = f"{{{shard_of(session_id)}}}:q:checksum:s:{session_id}:*"
    aside = [key async for key in redis.scan_iter(match=pattern)]
    assert len(aside) == 1
    assert await redis.pttl(aside[0]) > 0


async def flip_a_bit(redis: Redis, key: str) -> None:
    stored = await redis.get(key)
    assert isinstance(stored, bytes)
    raw = bytearray(stored)
    raw[-1] ^= 1
    await redis.set(key, bytes(raw))


async def test_what_was_put_aside_is_counted_found_looked_at_and_dropped(
    store: RedisSessionStore, redis: Redis
) -> None:
    before = (await store.census()).quarantined
    session_id = new_session()
    await store.transact(session_id, make(session_id))
    stored = await redis.get(keys.record_key(session_id))
    assert isinstance(stored, bytes)
    await redis.setrange(keys.record_key(session_id), 0, "\x09")
    await store.transact(session_id, make(session_id))

    census = await store.census()
    assert census.quarantined == before + 1
    assert census.sessions >= 1
    (newest,), last = await store.put_aside(None, 1)
    assert (newest.key, newest.damage) == (f"s:{session_id}:rec", Damage.VERSION)
    assert await store.find_put_aside(newest.record_id) == newest
    assert await store.content_put_aside(newest.record_id, 5) == ("string", b"\x09" + stored[1:5])
    assert last in (None, (newest.at_ms, newest.record_id))
    older, _ = await store.put_aside((newest.at_ms, newest.record_id), 1)
    assert newest not in older

    request_id = uuid4().hex
    assert await store.drop_put_aside(newest.record_id, request_id)
    assert await store.find_put_aside(newest.record_id) is None
    assert (await store.census()).quarantined == before
    assert not await store.drop_put_aside(f"{newest.record_id}0", request_id)
    record = await store.session(session_id)
    assert record is not None


async def test_who_decides_is_told_that_a_record_was_damaged(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))

    def found(draft: Draft) -> tuple[bool, bool]:
        return draft.session is not None, draft.damaged

    assert (await store.transact(session_id, found))[0] == (True, False)
    await flip_a_bit(redis, keys.record_key(session_id))
    assert (await store.transact(session_id, found))[0] == (False, True)


async def test_a_damaged_message_does_not_break_the_others(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    await store.transact(session_id, make(session_id))
    for text in ("one", "two"):
        await store.transact(session_id, say(text))
    await redis.hset(keys.messages_key(session_id), "m1", b"\x01junk")
    assert [message.text for message in await store.window(session_id)] == ["two"]


async def test_lists_are_newest_first_in_pages_and_a_retry_keeps_the_first_place(
    store: RedisSessionStore,
) -> None:
    owner = uuid4().hex
    for number in range(10):
        await store.list_add(owner, f"s{number}", 1_000 + number // 3)
    await store.list_add(owner, "s0", 9_999)
    places: list[tuple[int, str]] = []
    while page := await store.list_page(owner, places[-1] if places else None, 4):
        places += page
    assert places == sorted(places, reverse=True)
    assert sorted(name for _, name in places) == [f"s{number}" for number in range(10)]
    assert (1_000, "s0") in places
    await store.list_remove(owner, ["s1", "s2"])
    assert len(await store.list_page(owner, None, 20)) == await store.list_length(owner) == 8


async def test_what_is_overdue_is_taken_by_one_replica_only(site: Site) -> None:
    session_id = new_session()
    turns = [new_turn(session_id) for _ in range(40)]
    later = new_turn(session_id)
    async with (
        opened(site.url) as one,
        opened(site.url) as two,
        site.client() as redis,
    ):
        await redis.flushdb()
        for turn_id in turns:
            await one.transact(session_id, put_turn(turn_id, session_id, due=1_000))
        await one.transact(session_id, put_turn(later, session_id, due=10**15))
        taken = await asyncio.gather(*(store.take_overdue(60_000, 50) for store in (one, two) * 3))
        assert sorted(turn for found in taken for turn in found) == sorted(turns)
        assert await one.take_overdue(60_000, 50) == []


async def test_the_content_keeps_its_name_until_all_is_lost(
    store: RedisSessionStore, redis: Redis
) -> None:
    name = await store.content_id()
    assert name == await store.content_id()
    await redis.flushdb()
    assert await store.content_id() not in ("", name)


async def test_what_a_dead_replica_took_is_taken_again(
    store: RedisSessionStore, redis: Redis
) -> None:
    await redis.flushdb()
    session_id = new_session()
    turn_id = new_turn(session_id)
    await store.transact(session_id, put_turn(turn_id, session_id, due=1_000))
    assert await store.take_overdue(50, 10) == [turn_id]
    again: list[str] = []

    async def taken() -> bool:
        again.extend(await store.take_overdue(50, 10))
        return again == [turn_id]

    await wait_until(taken)


async def test_only_a_turn_that_is_gone_leaves_the_clock(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)
    due = keys.due_key(shard_of(turn_id))
    await store.transact(session_id, put_turn(turn_id, session_id, due=1_000))
    await store.forget_due(turn_id)
    assert await redis.zscore(due, turn_id) == 1_000
    await redis.delete(keys.turn_key(turn_id))
    await store.forget_due(turn_id)
    assert await redis.zscore(due, turn_id) is None


async def test_facts_stay_in_their_order_until_they_are_dropped(
    store: RedisSessionStore, redis: Redis
) -> None:
    await redis.flushdb()
    session_id = new_session()
    shard = shard_of(session_id)

    def tell(number: int) -> Callable[[Draft], None]:
        return lambda draft: draft.remember(SessionChanged(tenant=f"t{number}"))

    for number in range(5):
        await store.transact(session_id, tell(number))
    assert await store.out_shards() == [shard]
    facts = await store.out_read(shard, 10)
    assert [key for _, key, _ in facts] == ["session.changed"] * 5
    told = [SessionChanged.FromString(body).tenant for _, _, body in facts]
    assert told == ["t0", "t1", "t2", "t3", "t4"]
    await store.out_drop(shard, [entry for entry, _, _ in facts[:4]])
    assert [body for _, _, body in await store.out_read(shard, 10)] == [facts[4][2]]
    await store.out_drop(shard, [facts[4][0]])
    assert await store.out_shards() == []


async def test_an_archived_turns_log_expires_even_if_its_end_is_all_it_has(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)

    def sealed(draft: Draft) -> None:
        draft.put_turn(TurnRecord(phase=STUB, job=RunTurn(turn_id=turn_id)))
        draft.events.append((turn_id, EventId(9, 9), TurnFrame(turn_id=turn_id)))

    await store.transact(session_id, sealed)
    assert 0 < await redis.pttl(keys.turn_key(turn_id)) <= TIMING.stub
    assert await redis.pttl(keys.events_key(turn_id)) > 0


async def test_a_tombstone_stays_for_a_day_and_takes_all_parts_along(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    turn_id = new_turn(session_id)
    await store.transact(session_id, make(session_id))
    await store.transact(session_id, say("hello"))
    await store.transact(session_id, put_turn(turn_id, session_id, due=1_000))

    def bury(draft: Draft) -> None:
        draft.session = SessionRecord(tenant="t", tombstone=True)
        draft.session_changed = True
        draft.turns_removed.add(turn_id)
        draft.due[turn_id] = None

    await store.transact(session_id, bury)
    assert TIMING.stub - 5_000 < await redis.pttl(keys.record_key(session_id)) <= TIMING.stub
    left = (keys.messages_key(session_id), keys.turn_key(turn_id), keys.events_key(turn_id))
    assert await redis.exists(*left) == 0
    assert await redis.zscore(keys.due_key(shard_of(turn_id)), turn_id) is None


def put_line(session_id: str, running: str, waiting: Sequence[str]) -> Callable[[Draft], None]:
    """Decide to make a session with a running turn and a line."""

    def decide(draft: Draft) -> None:
        make(session_id)(draft)
        for turn_id in (running, *waiting):
            put_turn(turn_id, session_id)(draft)
        draft.record.session.active_turn_id = running
        draft.record.waiting_turn_ids.extend(waiting)

    return decide


async def test_the_line_is_read_with_its_session_and_the_running_turn_on_request(
    store: RedisSessionStore,
) -> None:
    session_id = new_session()
    running, *waiting = (new_turn(session_id) for _ in range(4))
    await store.transact(session_id, put_line(session_id, running, waiting))
    _, draft = await store.transact(session_id, lambda _: None)
    assert set(draft.turns) == set(waiting)
    _, draft = await store.transact(session_id, lambda _: None, Reads(running=True))
    assert set(draft.turns) == {running, *waiting}


@pytest.mark.parametrize("whose", ["running", "waiting"])
async def test_a_turn_of_the_line_that_changes_after_the_reads_is_a_conflict(
    store: RedisSessionStore, redis: Redis, whose: str
) -> None:
    session_id = new_session()
    running, waiting = new_turn(session_id), new_turn(session_id)
    await store.transact(session_id, put_line(session_id, running, [waiting]))
    seen: list[int] = []

    async def changed(draft: Draft) -> None:
        turn_id = running if whose == "running" else waiting
        seen.append(draft.turns[turn_id].fence)
        if len(seen) == 1:
            other = TurnRecord.FromString(draft.turns[turn_id].SerializeToString())
            other.fence = 77
            await redis.set(keys.turn_key(turn_id), encode(other))

    await store.transact(session_id, count("mine"), Reads(running=True), changed)
    assert seen == [5, 77]


async def test_a_waiting_turn_that_was_lost_alone_is_left_out_of_the_line(
    store: RedisSessionStore, redis: Redis
) -> None:
    session_id = new_session()
    running, first, second = (new_turn(session_id) for _ in range(3))
    await store.transact(session_id, put_line(session_id, running, [first, second]))
    await redis.delete(keys.turn_key(first))
    _, draft = await store.transact(session_id, lambda _: None)
    assert list(draft.record.waiting_turn_ids) == [second]


class ExecThief:
    """Chooses a share of the transactions, whose replies are then lost."""

    def __init__(self, chance: random.Random, share: float) -> None:
        self._chance = chance
        self._share = share
        self.swallowed = 0

    def __call__(self, chunk: bytes) -> bool:
        lost = b"EXEC" in chunk and self._chance.random() < self._share
        self.swallowed += lost
        return lost


async def test_a_line_is_served_in_order_and_once_though_replies_to_exec_are_lost(
    server: RedisServer,
) -> None:
    session_id, thief = new_session(), ExecThief(random.Random(11), 0.2)
    ids, timing = Ids(b"k"), Timing()
    served: list[TurnRecord] = []
    policies = (BUSY_POLICY_ENQUEUE, BUSY_POLICY_ENQUEUE, BUSY_POLICY_INTERRUPT)

    def job(number: int) -> RunTurn:
        turn_id = ids.turn(session_id, str(number))
        message = user_message(turn_id, session_id, f"{number}?")
        return RunTurn(
            turn_id=turn_id, message=message, max_attempts=3, busy_policy=policies[number % 3]
        )

    async with proxy(server.port) as link:
        url = f"redis://127.0.0.1:{link.port}/0"
        async with opened(url, 30) as one, opened(url, 30) as two:
            await one.transact(session_id, make(session_id))
            link.swallow_replies(thief)

            async def ask(number: int) -> None:
                new, reads = job(number), Reads(turns=[job(number).turn_id], running=True)

                def decide(draft: Draft) -> None:
                    begin(draft, new, timing, most_waiting=100)

                await (one, two)[number % 2].transact(session_id, decide, reads)

            def end_running(draft: Draft) -> None:
                if turn_id := draft.record.session.active_turn_id:
                    ending = Ending(state=TURN_STATE_COMPLETED, text="So.")
                    end(draft, draft.turns[turn_id], ending, timing)

            async def serve() -> None:
                while len(served) < 30:
                    await two.transact(session_id, end_running, Reads(running=True))
                    terminal = await two.turns([job(number).turn_id for number in range(30)])
                    served[:] = [t for t in terminal if t is not None and t.phase == TERMINAL]
                    await asyncio.sleep(0)

            await asyncio.gather(serve(), *map(ask, range(30)))
            link.swallow_replies(lambda _: False)
            record, messages = await one.session(session_id), await one.window(session_id)
    assert thief.swallowed > 5
    assert record is not None
    assert not record.waiting_turn_ids
    assert [message.position for message in messages] == list(range(1, len(messages) + 1))
    asked = [message.message_id for message in messages if message.message_id.endswith(".u")]
    assert len(set(asked)) == len(asked)
    # Only those whose turn was taken over while they waited never asked.
    ended = {turn.job.turn_id: turn.finished.outcome.state for turn in served}
    assert len(ended) == 30
    assert {f"{t}.u" for t, s in ended.items() if s == TURN_STATE_COMPLETED} <= set(asked)


@pytest.fixture
async def own_database(server: RedisServer) -> AsyncIterator[str]:
    """The URL of a database that has nothing but what its test puts there."""
    url = server.url.removesuffix("/0") + "/9"
    async with Redis.from_url(url) as client:
        await client.flushdb()
        yield url


async def test_live_sessions_are_counted_and_those_in_which_a_turn_runs_or_waits(
    own_database: str,
) -> None:
    def running(draft: Draft) -> None:
        draft.record.session.active_turn_id = "t"
        draft.session_changed = True

    def buried(draft: Draft) -> None:
        draft.record.tombstone = draft.session_changed = True

    async with opened(own_database) as store:
        idle, unarchived, busy, deleted = (new_session() for _ in range(4))
        for session_id in (idle, busy, deleted):
            await store.transact(session_id, make(session_id))
        await store.transact(unarchived, make(unarchived, archived=False))
        await store.transact(busy, running)
        assert (await store.census()).sessions == 4
        await store.transact(deleted, buried)
        census = await store.census()
        assert (census.sessions, census.active) == (3, 1)
        assert min(census.session_bytes) > 0


async def test_a_session_that_has_expired_is_not_counted(own_database: str) -> None:
    async with opened(own_database, timing=Timing(idle=50)) as store:
        session_id = new_session()
        await store.transact(session_id, make(session_id))

        async def forgotten() -> bool:
            return (await store.census()).sessions == 0

        await wait_until(forgotten, 5)


async def test_a_session_without_its_record_has_no_size(own_database: str) -> None:
    async with opened(own_database) as store, Redis.from_url(own_database) as redis:
        session_id = new_session()
        await store.transact(session_id, make(session_id))
        assert len((await store.census()).session_bytes) == 1
        await redis.delete(keys.record_key(session_id))
        assert not (await store.census()).session_bytes


async def test_a_session_that_was_read_is_counted_for_longer(own_database: str) -> None:
    async with opened(own_database) as store, Redis.from_url(own_database) as redis:
        session_id = new_session()
        await store.transact(session_id, make(session_id))
        live = keys.live_key(shard_of(session_id))
        await redis.zadd(live, {session_id: 1.0})
        await redis.pexpire(keys.record_key(session_id), 10_000)
        await store.keep_alive(session_id)
        assert (await store.census()).sessions == 1


async def test_the_oldest_work_that_is_due_is_told(own_database: str) -> None:
    async with opened(own_database) as store, Redis.from_url(own_database) as redis:
        assert (await store.census()).overdue_ms == 0
        now = (await redis.time())[0] * 1000
        for age in (-60_000, 5_000, 70_000):
            session_id = new_session()
            await store.transact(session_id, make(session_id))
            turn_id = new_turn(session_id)
            await store.transact(session_id, put_turn(turn_id, session_id, now - age))
        assert 70_000 <= (await store.census()).overdue_ms < 80_000
