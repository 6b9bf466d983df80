"""What crashes leave behind in the live store is found and goes; whatever lives stays."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from services.runtime import names
from services.session.adapters import keys
from services.session.adapters.codec import encode
from services.session.adapters.orphans import RedisKeySpace
from services.session.adapters.redis import RedisSessionStore
from services.session.ids import shard_of
from services.session.model import QUEUED, STUB, Caller, Draft, Timing
from services.session.orphans import OrphanOptions, OrphanSearch
from services.session.ports import Leftover, LeftoverKind
from tests.backends.redis import RedisServer
from tests.backends.redis_cluster import RedisCluster
from tests.proxy import proxy
from tests.recorded import recording
from tests.session.stack import SOON, Stack, User, session_stack
from tests.waiting import wait_until

GRACE_MS = 60_000
OWNER = Caller(tenant="acme", user="ann").key
LONG_AGO = 1_700_000_000_000
DAYS_30 = 30 * 86_400_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """A store of its own, and the search through it."""

    store: RedisSessionStore
    space: RedisKeySpace
    redis: Redis

    async def round(self) -> list[Leftover]:
        """Look at every key once; returns what was found."""
        found: list[Leftover] = []
        while True:
            step = await self.space.next_keys(10)
            found += await self.space.leftovers(step, GRACE_MS)
            await self.space.walked(step)
            if step.round_over:
                return found

    async def one(self) -> Leftover:
        (found,) = set(await self.round())
        return found

    async def remove(self, leftover: Leftover) -> bool:
        return await self.space.remove(leftover, GRACE_MS, Timing())


@pytest.fixture(params=["valkey_server", "redis_node", "small_cluster"])
def site(request: pytest.FixtureRequest) -> RedisServer | RedisCluster:
    found: RedisServer | RedisCluster = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def place(site: RedisServer | RedisCluster) -> AsyncIterator[Place]:
    async with (
        site.client() as redis,
        RedisSessionStore.connect(site.url, timing=Timing()) as store,
    ):
        await redis.flushdb()
        yield Place(store=store, space=RedisKeySpace(store.servers), redis=redis)


def new_id() -> str:
    return uuid4().hex[:24] * 2


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def turn_of(session_id: str, *, fence: int = LONG_AGO, phase: Any = QUEUED) -> TurnRecord:
    turn = TurnRecord(phase=phase, fence=fence, job=RunTurn(turn_id=session_id[:24] + "t" * 24))
    turn.job.message.session_id = session_id
    return turn


async def put_turn(redis: Redis, turn: TurnRecord) -> str:
    turn_id: str = turn.job.turn_id
    await redis.set(keys.turn_key(turn_id), encode(turn))
    return turn_id


async def index_entry(redis: Redis, *, age: int = 2 * GRACE_MS) -> None:
    await redis.zadd(keys.owner_key(OWNER), {new_id(): now_ms() - age})


async def live_entry(redis: Redis) -> None:
    session_id = new_id()
    await redis.zadd(keys.live_key(shard_of(session_id)), {session_id: float("inf")})


async def due_member(redis: Redis) -> None:
    turn_id = new_id()
    await redis.zadd(keys.due_key(shard_of(turn_id)), {turn_id: now_ms() + 10**9})


async def messages(redis: Redis) -> None:
    await redis.hset(keys.messages_key(new_id()), "m", b"text")


async def annotations(redis: Redis) -> None:
    await redis.set(keys.annotations_key(new_id()), b"notes")


async def session_log(redis: Redis) -> None:
    await redis.xadd(keys.session_events_key(new_id()), {"f": b""})


async def log(redis: Redis, *, fence: int = LONG_AGO) -> None:
    await redis.xadd(keys.events_key(new_id()), {"f": b""}, id=f"{fence}-3")


async def forgotten_turn(redis: Redis) -> None:
    await put_turn(redis, turn_of(new_id()))


async def endless_stub(redis: Redis) -> None:
    await put_turn(redis, turn_of(new_id(), phase=STUB))


async def turn_of_deleted_session(redis: Redis) -> None:
    session_id = new_id()
    turn_id = await put_turn(redis, turn_of(session_id))
    await redis.xadd(keys.events_key(turn_id), {"f": b""}, id=f"{LONG_AGO}-0")
    tombstone = SessionRecord(tombstone=True)
    await redis.set(keys.record_key(session_id), encode(tombstone), px=GRACE_MS)


async def quarantined(redis: Redis) -> None:
    await redis.set(put_aside_at(LONG_AGO), b"bad")


def put_aside_at(ms: int) -> str:
    """Return the key of a record that went into quarantine then."""
    session_id = new_id()
    return keys.quarantine_key(shard_of(session_id), f"checksum:s:{session_id}:rec:{ms}")


GONE: list[tuple[LeftoverKind, Callable[[Redis], Awaitable[None]]]] = [
    (LeftoverKind.INDEX_ENTRY, index_entry),
    (LeftoverKind.LIVE_ENTRY, live_entry),
    (LeftoverKind.DUE_MEMBER, due_member),
    (LeftoverKind.TURN_LOG, log),
    (LeftoverKind.TURN, turn_of_deleted_session),
    (LeftoverKind.QUARANTINED, quarantined),
]


async def data_keys(redis: Redis) -> list[bytes]:
    """Return all keys but those of the walk, and tombstones, which have their own end."""
    found = [key async for key in redis.scan_iter() if not key.startswith(b"maieutic:")]
    return [key for key in found if not key.endswith(b":rec")]


@pytest.mark.parametrize(("kind", "plant"), GONE)
async def test_what_is_left_behind_is_found_and_removed(
    place: Place, kind: LeftoverKind, plant: Callable[[Redis], Awaitable[None]]
) -> None:
    await plant(place.redis)
    found = await place.one()
    assert found.kind is kind
    assert await place.remove(found)
    assert await data_keys(place.redis) == []
    assert await place.round() == []


@pytest.mark.parametrize("plant", [messages, annotations, session_log])
async def test_parts_without_a_record_expire_after_the_grace(
    place: Place, plant: Callable[[Redis], Awaitable[None]]
) -> None:
    await plant(place.redis)
    found = await place.one()
    assert found.kind is LeftoverKind.SESSION_PART
    assert await place.remove(found)
    assert 0 < await place.redis.pttl(found.key) <= GRACE_MS
    assert not await place.remove(found)
    assert await place.round() == []


async def test_a_turn_that_the_clock_forgot_is_given_back_to_it(place: Place) -> None:
    await forgotten_turn(place.redis)
    found = await place.one()
    assert await place.remove(found)
    assert await place.store.take_overdue(5_000, 10) == [found.member]
    assert await place.round() == []


async def test_a_stub_that_would_stay_for_ever_expires(place: Place) -> None:
    await endless_stub(place.redis)
    found = await place.one()
    assert await place.remove(found)
    assert 0 < await place.redis.pttl(found.key) <= Timing().stub


async def test_what_was_put_aside_lately_stays_for_its_days(place: Place) -> None:
    aside = put_aside_at(now_ms())
    await place.redis.set(aside, b"bad")
    assert await place.remove(await place.one())
    assert DAYS_30 - GRACE_MS < await place.redis.pttl(aside) <= DAYS_30


async def test_what_is_young_is_left_alone(place: Place) -> None:
    await index_entry(place.redis, age=0)
    assert await place.round() == []
    await log(place.redis, fence=now_ms())
    await put_turn(place.redis, turn_of(new_id(), fence=now_ms()))
    for found in await place.round():
        assert not await place.remove(found)
    assert len(await data_keys(place.redis)) == 3


async def test_names_that_are_not_ours_are_not_looked_into(place: Place) -> None:
    for name in ("u:x:s", "{7}:s:x", "{7}:out", "{x}:due", "something", "{7}:s:a:op:r"):
        await place.redis.set(name, b"?")
    await place.redis.hset("{7}:due", "not", "a list")
    await place.redis.hset(keys.turn_key(new_id()), "not", "a turn")
    await place.redis.set(keys.events_key(new_id()), b"not a log")
    for found in await place.round():
        assert not await place.remove(found)
    assert len(await data_keys(place.redis)) == 9


def create(draft: Draft) -> None:
    draft.session = draft.session or SessionRecord()
    draft.session.session.session_id = draft.session_id
    draft.touch()


async def test_a_session_that_is_made_while_its_old_entry_is_removed_stays_on_the_list(
    place: Place,
) -> None:
    """Its maker has put it on the list, as a try that died did long ago, and not committed yet."""
    session_id, tries = new_id(), 0
    await place.store.list_add(OWNER, session_id, LONG_AGO)
    found = await place.one()

    async def prepare(draft: Draft) -> None:
        nonlocal tries
        if draft.session is None:
            tries += 1
            await place.store.list_add(OWNER, session_id, draft.now_ms)
            if tries == 1:
                assert await place.remove(found)
                assert await place.store.list_length(OWNER) == 0

    await place.store.transact(session_id, create, prepare=prepare)
    assert tries == 2
    assert await place.store.list_length(OWNER) == 1
    assert await place.round() == []


async def test_a_session_that_was_made_since_it_was_found_stays_on_the_list(place: Place) -> None:
    session_id = new_id()
    await place.store.list_add(OWNER, session_id, LONG_AGO)
    found = await place.one()
    await place.store.transact(session_id, create)
    assert not await place.remove(found)
    assert await place.store.list_page(OWNER, None, 10) == [(LONG_AGO, session_id)]


class _Made(RedisKeySpace):
    """Between the removal of an entry and its confirmation somebody makes the session."""

    maker: Callable[[], Awaitable[Any]]

    async def _pipeline(self, commands: Any, *, errors: bool = False) -> Any:
        replies = await super()._pipeline(commands, errors=errors)
        if commands and commands[0][0] == "ZREM":
            await self.maker()
        return replies


async def test_an_entry_whose_session_is_made_in_the_same_moment_is_put_back(place: Place) -> None:
    session_id = new_id()
    await place.store.list_add(OWNER, session_id, LONG_AGO)
    found, space = await place.one(), _Made(place.store.servers)
    space.maker = lambda: place.store.transact(session_id, create)
    assert not await space.remove(found, GRACE_MS, Timing())
    assert await place.store.list_page(OWNER, None, 10) == [(LONG_AGO, session_id)]
    assert await place.store.session(session_id) is not None


@pytest.mark.parametrize("plant", [index_entry, live_entry, turn_of_deleted_session])
async def test_a_removal_whose_reply_is_lost_is_done_by_the_next_round(
    valkey_server: RedisServer, plant: Callable[[Redis], Awaitable[None]]
) -> None:
    async with (
        valkey_server.client() as redis,
        proxy(valkey_server.port) as way,
        RedisSessionStore.connect(f"redis://127.0.0.1:{way.port}", timing=Timing()) as store,
    ):
        await redis.flushdb()
        place = Place(store=store, space=RedisKeySpace(store.servers), redis=redis)
        await plant(redis)
        found = await place.one()
        way.swallow_replies(lambda sent: b"EXEC" in sent)
        assert not await place.remove(found)
        way.swallow_replies(lambda _: False)
        for again in await place.round():
            assert await place.remove(again)
        assert await data_keys(redis) == []


async def test_a_store_that_is_away_holds_the_search_up_and_does_not_end_it(
    valkey_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        valkey_server.client() as redis,
        proxy(valkey_server.port) as way,
        RedisSessionStore.connect(f"redis://127.0.0.1:{way.port}", timing=Timing()) as store,
    ):
        await redis.flushdb()
        await index_entry(redis)
        options = OrphanOptions(interval=0.01, keys=100, grace=60.0)
        space = RedisKeySpace(store.servers)
        search = OrphanSearch(space=space, timing=Timing(), options=options)
        async with way.outage():
            searching = asyncio.create_task(search.run())
            await wait_until(lambda: "goes on later" in caplog.text, SOON)

        async def gone() -> bool:
            return not await redis.exists(keys.owner_key(OWNER))

        await wait_until(gone, SOON)
        searching.cancel()
        await asyncio.gather(searching, return_exceptions=True)


async def test_the_walk_goes_on_where_another_replica_stopped(place: Place) -> None:
    for _ in range(200):
        await messages(place.redis)
    step = await place.space.next_keys(20)
    assert not step.round_over
    assert (await place.space.next_keys(20)).keys == step.keys  # as after a crash
    await place.space.walked(step)
    other = RedisKeySpace(place.store.servers)
    assert not set((await other.next_keys(20)).keys) & set(step.keys)
    assert await place.space.take_turn(60_000)
    assert not await other.take_turn(60_000)


# --- beside a running service -------------------------------------------------------------------

QUICK = OrphanOptions(interval=0.02, keys=40, grace=0.0)


async def talk(stack: Stack, user: User, number: int) -> list[str]:
    """Make sessions, each with a note and a turn; returns their ids."""
    made = []
    for _ in range(number):
        session_id = (await user.create()).session_id
        await user.add_note(session_id, "a note")
        turn = await user.begin(session_id)
        held = await stack.claim(turn.turn_id)
        await held.say("Because of the moon.")
        await held.complete("Because of the moon.")
        made.append(session_id)
    return made


@asynccontextmanager
async def rounds(stack: Stack, number: int) -> AsyncIterator[None]:
    """Let the search go through all keys so often after the block."""
    yield
    for _ in range(number):
        before = int(await stack.redis.hget("maieutic:walk", "ended") or 0)

        async def over(before: int = before) -> bool:
            return int(await stack.redis.hget("maieutic:walk", "ended") or 0) > before

        await wait_until(over, SOON)


async def test_everything_left_behind_goes_while_sessions_are_made_and_all_of_them_stay(
    any_store_url: str,
) -> None:
    async with (
        recording() as recorded,
        session_stack(any_store_url, replicas=2, lease=30.0, orphans=QUICK) as stack,
    ):
        waiting = stack.user()
        busy = (await waiting.create()).session_id
        running = await waiting.begin(busy)
        held = await stack.claim(running.turn_id)
        planted = [plant for _, plant in GONE] + [messages, annotations, endless_stub]
        async with rounds(stack, 2):
            users = [stack.user(replica) for replica in (0, 1)]
            making = [asyncio.create_task(talk(stack, user, 6)) for user in users]
            for plant in planted:
                await plant(stack.redis)
            made = [await task for task in making]
        for user, own in zip(users, made, strict=True):
            owner = Caller(tenant=user.tenant, user=user.name).key
            assert set(await list_of(stack, owner)) == set(own)
            assert set(await user.all_sessions(50)) == set(own)
            for session_id in own:
                assert len(await user.all_messages(session_id)) == 2
                assert len((await user.notes(session_id))[0]) == 1
        await held.say("Still here.")
        await held.complete("Still here.")
        assert (await waiting.ended(running.turn_id)).outcome.text == "Still here."
        assert await stack.redis.zcard(keys.owner_key(OWNER)) == 0
        removed = recorded.points(names.ORPHANS_REMOVED, names.ORPHAN_KIND)
        assert {kind for (kind,) in removed} == {kind.value for kind in LeftoverKind}
        assert recorded.points(names.ORPHANS_LOOKED_AT)[()].value > 50
        assert recorded.points(names.ORPHANS_STEP)[()].count > 2
        assert recorded.points(names.ORPHANS_ROUND)[()].value > LONG_AGO / 1000


async def list_of(stack: Stack, owner: str) -> list[str]:
    found: Any = await stack.redis.zrange(keys.owner_key(owner), 0, -1)
    return [member.decode() for member in found]


async def test_a_dry_run_only_says_what_it_would_remove(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    for _, plant in GONE:
        await plant(place.redis)
    before = sorted(await data_keys(place.redis))
    options = OrphanOptions(interval=0.001, keys=1000, grace=60.0, dry_run=True)
    search = OrphanSearch(space=place.space, timing=Timing(), options=options)

    async def round_is_over() -> bool:
        await search.step()
        return bool(await place.redis.hget("maieutic:walk", "ended"))

    with caplog.at_level(logging.WARNING, "services.session.orphans"):
        await wait_until(round_is_over, SOON)
    for kind, _ in GONE:
        assert f"orphan, left alone: {kind.value} " in caplog.text
    assert sorted(await data_keys(place.redis)) == before


async def test_more_than_a_step_may_remove_is_removed_by_the_next_ones(place: Place) -> None:
    old = {new_id(): LONG_AGO + number for number in range(450)}
    await place.redis.zadd(keys.owner_key(OWNER), old)
    options = OrphanOptions(interval=0.001, keys=1000, grace=60.0)
    search = OrphanSearch(space=place.space, timing=Timing(), options=options)
    left = []

    async def none_left() -> bool:
        await search.step()
        left.append(await place.store.list_length(OWNER))
        return not left[-1]

    await wait_until(none_left, SOON)
    assert {450 - 200, 450 - 400, 0} <= set(left)


async def test_the_search_goes_on_behind_many_that_are_not_to_be_removed_yet(place: Place) -> None:
    writes = place.redis.pipeline(transaction=False)
    for _ in range(250):
        writes.xadd(keys.events_key(new_id()), {"f": b""}, id=f"{now_ms()}-1")
    await writes.execute()
    options = OrphanOptions(interval=0.001, keys=1000, grace=60.0)
    search = OrphanSearch(space=place.space, timing=Timing(), options=options)

    async def round_is_over() -> bool:
        await search.step()
        return bool(await place.redis.hget("maieutic:walk", "ended"))

    await wait_until(round_is_over, SOON)
    assert len(await data_keys(place.redis)) == 250


async def test_behind_more_sessions_than_are_asked_after_together_an_orphan_is_found(
    place: Place,
) -> None:
    entries = {new_id(): LONG_AGO + number for number in range(1_100)}
    *living, lost = entries
    writes = place.redis.pipeline(transaction=False)
    for session_id in living:
        writes.set(keys.record_key(session_id), b"")
    await writes.execute()
    await place.redis.zadd(keys.owner_key(OWNER), entries)
    assert (await place.one()).member == lost


async def test_a_search_that_is_switched_off_ends_at_once(place: Place) -> None:
    options = OrphanOptions(interval=0.0)
    await OrphanSearch(space=place.space, timing=Timing(), options=options).run()
    assert not await place.redis.exists("maieutic:walk")
