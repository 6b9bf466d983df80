"""Calls of several clients in any order and at once, on links that break, beside a plain model."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from hypothesis.strategies import booleans, builds, integers, lists, sampled_from
from redis.asyncio import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from maieutic.v1 import session_service_pb2 as pb, turn_service_pb2 as turns
from services.session.adapters import keys
from tests.backends.redis import RedisServer
from tests.backends.redis_cluster import asked, redis_cluster
from tests.proxy import Proxy, proxy
from tests.session.interleavings.callers import Callers
from tests.session.interleavings.expected import MAX_ATTEMPTS, MOST_WAITING, View, World
from tests.session.interleavings.serial import Answered, Call, worlds_after
from tests.session.interleavings.wishes import (
    ABOUT_SESSIONS,
    ABOUT_TURNS,
    ALL,
    Wish,
    Wishing,
    wishes,
)
from tests.session.stack import SOON, Stack, session_stack
from tests.waiting import wait_until

EXAMPLES = int(os.environ.get("MAIEUTIC_INTERLEAVINGS", "0"))
"""For a long run; without it the same few are tried each time."""


ORDERS = sorted(pb.SessionOrder.values())
PERSISTS = -1
PRIMARIES = 3
MOST_AT_ONCE = 4


@dataclass(frozen=True)
class Faults:
    """What goes wrong while calls are made at once."""

    twice: bool = False
    """The first call is also made a second time."""
    lost: int = 0
    """Replies to EXEC that never arrive; their links are cut."""
    cuts: int = 0
    """Transactions at whose beginning all links are cut."""


NO_FAULTS = Faults()
FAULTS = builds(Faults, twice=booleans(), lost=integers(0, 3), cuts=integers(0, 2))


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store, behind proxies that lose replies."""

    url: str
    links: Sequence[Proxy]
    at: Callable[[str], Redis]
    """The server that has the key, past its proxy."""
    client: AbstractAsyncContextManager[Redis] | None = None


@asynccontextmanager
async def one_server(server: RedisServer) -> AsyncIterator[Store]:
    async with proxy(server.port) as link, Redis.from_url(server.url) as redis:
        await redis.flushdb()
        yield Store(url=f"redis://127.0.0.1:{link.port}/0", links=[link], at=lambda _: redis)


@asynccontextmanager
async def cluster_of_six() -> AsyncIterator[Store]:
    """Three primaries, each with a replica, that send callers to their proxies."""
    async with redis_cluster(replicas=1) as cluster, AsyncExitStack() as parts:
        primaries = cluster.servers[:PRIMARIES]
        links = [await parts.enter_async_context(proxy(server.port)) for server in primaries]
        nodes = [
            await parts.enter_async_context(Redis.from_url(server.url)) for server in primaries
        ]
        for node, link in zip(nodes, links, strict=True):
            await node.config_set("cluster-announce-port", link.port)
        ports = {link.port for link in links}

        async def known() -> bool:
            views = [await asked(server.port, "CLUSTER", "SLOTS") for server in cluster.servers]
            return all({row[2][1] for row in view} == ports for view in views)

        await wait_until(known, SOON)

        def node_of(key: str) -> Redis:
            return nodes[key_slot(key.encode()) * PRIMARIES // REDIS_CLUSTER_HASH_SLOTS]

        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
        yield Store(url=url, links=links, at=node_of, client=cluster.client())


@dataclass(frozen=True)
class Service:
    """Two replicas on one store."""

    runner: asyncio.Runner
    stack: Stack
    store: Store
    figures: Counter[str] = field(default_factory=Counter)


@contextmanager
def service(opening: AbstractAsyncContextManager[Store]) -> Iterator[Service]:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        parts = AsyncExitStack()

        async def start() -> Service:
            store = await parts.enter_async_context(opening)
            running = session_stack(
                store.url,
                replicas=2,
                client=store.client,
                flush=False,
                lease=600.0,
                sweep_interval=0.1,
                max_attempts=MAX_ATTEMPTS,
                waiting_turns=MOST_WAITING,
            )
            return Service(runner, await parts.enter_async_context(running), store)

        try:
            yield runner.run(start())
        finally:
            runner.run(parts.aclose())


class Interleavings(RuleBasedStateMachine):
    """What callers see is what some order of their calls explains."""

    def __init__(self, running: Service) -> None:
        super().__init__()
        self._running = running
        user = running.stack.user()
        self.callers = Callers(running.stack, running.store.at, user)
        self.wishing = Wishing(self.callers)
        self.worlds = [World(user.tenant, user.name)]
        self._lag = ExitStack()
        self._looks = 0
        self._over: set[str] = set()
        self._sound = False

    @initialize()
    def begin(self) -> None:
        self._run(self._at_once([self._call("create"), self._call("begin", how=1)]))

    def _call(self, kind: str, how: int = 0) -> Call:
        call = self.wishing.call(Wish(kind=kind, session=0, which=0, how=how, again=2))
        assert call is not None
        return call

    @rule(several=lists(wishes(ABOUT_SESSIONS, 6), min_size=1, max_size=4), faults=FAULTS)
    def sessions_change_at_once(self, several: list[Wish], faults: Faults) -> None:
        self._wish(several, faults)

    @rule(several=lists(wishes(ABOUT_TURNS, 1), min_size=1, max_size=4), faults=FAULTS)
    def turns_go_on_at_once(self, several: list[Wish], faults: Faults) -> None:
        self._wish(several, faults)

    @rule(several=lists(wishes(ALL, 2), min_size=2, max_size=4), faults=FAULTS)
    def all_goes_on_at_once(self, several: list[Wish], faults: Faults) -> None:
        self._wish(several, faults)

    def _wish(self, several: list[Wish], faults: Faults) -> None:
        calls = [call for wish in several if (call := self.wishing.call(wish)) is not None]
        if faults.twice and len(several) < MOST_AT_ONCE:
            calls += calls[:1]
        self._run(self._at_once(calls, faults))

    @rule(times=sampled_from((1, 2, 11)))
    def talk(self, times: int) -> None:
        for _ in range(times):
            self._run(self._ask_and_answer())
        self._run(self._look(self.wishing.sessions[0]))

    async def _ask_and_answer(self) -> None:
        session_id = self.wishing.sessions[0]
        await self._one_by_one(session_id, self._call("begin"))
        talk = self.worlds[0].talks[session_id]
        if talk.active and not talk.deleted:
            hold = (session_id, talk.active, f"claim of {talk.active}")
            await self._one_by_one(session_id, Call("claim", hold))
            await self._one_by_one(session_id, Call("complete", (*hold, "Because.")))

    async def _one_by_one(self, session_id: str, call: Call) -> None:
        self._explain([Answered(call, await self.callers.answer(call))])
        await self._turns_are_shown(session_id)

    @rule()
    def the_archive_lags(self) -> None:
        self._lag.enter_context(self._running.stack.archiver.paused())

    @rule()
    def the_archive_catches_up(self) -> None:
        self._lag.close()

    @rule(session=integers(0, 5))
    def one_leaves(self, session: int) -> None:
        known = self.wishing.sessions
        self._run(self._leave(known[session % len(known)]))

    @rule(order=sampled_from(ORDERS), ended=booleans())
    def all_are_listed(self, order: int, *, ended: bool) -> None:
        self._run(self._at_once([Call("all_sessions", (order, ended))]))

    def teardown(self) -> None:
        try:
            if self._sound:
                self._run(self._everything_ends())
        finally:
            self._lag.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._sound = False
        self._running.runner.run(work)
        self._sound = True

    async def _at_once(self, calls: list[Call], faults: Faults = NO_FAULTS) -> None:
        async with self._breaking(faults):
            answered = await self.callers.at_once(calls)
        self._running.figures.update(["groups", *("calls" for _ in calls)])
        self._explain(answered)
        seen = [one.answer.session_id for one in answered if isinstance(one.answer, View)]
        for session_id in dict.fromkeys([*seen, *(call.args[0] for call in calls)]):
            if session_id in self.worlds[0].talks:
                self.wishing.know(session_id)
                await self._look(session_id)

    @asynccontextmanager
    async def _breaking(self, faults: Faults) -> AsyncIterator[None]:
        """Lose replies to the first commits, and cut all links when transactions begin."""
        links, figures = self._running.store.links, self._running.figures
        lost, cuts = 0, list[asyncio.Task[None]]()

        def fate(chunk: bytes) -> bool:
            nonlocal lost
            if len(cuts) < faults.cuts and b"WATCH" in chunk:
                cuts.append(asyncio.create_task(_cut(links)))
            loses = lost < faults.lost and b"EXEC" in chunk
            lost += loses
            return loses

        for link in links:
            link.swallow_replies(fate)
        try:
            yield
        finally:
            for link in links:
                link.swallow_replies(lambda _: False)
            await asyncio.gather(*cuts)
            figures.update(lost=lost, cuts=len(cuts))

    def _explain(self, answered: list[Answered]) -> None:
        worlds = worlds_after(self.worlds, answered)
        assert worlds, f"no order of these calls explains {answered} in {self.worlds}"
        self.worlds = worlds

    async def _look(self, session_id: str) -> None:
        """Look at all there is of a session, now that nobody writes."""
        await self._turns_are_shown(session_id)
        self._looks += 1
        for name, *more in (
            ("notes",),
            ("bookmarks",),
            ("all_messages", 5 + self._looks % 50),
            ("get",),
        ):
            call = Call(name, (session_id, *more))
            self._explain([Answered(call, await self.callers.answer(call, self._looks))])
        if session_id in self.callers.revisions and not self.worlds[0].talks[session_id].deleted:
            self._take_note_of_revision(session_id, self.callers.revisions[session_id][-1])

    async def _turns_are_shown(self, session_id: str) -> None:
        """Wait until the turns are as some world has them, their ends included."""
        known = {turn for world in self.worlds for turn in world.talks[session_id].turns}
        doubtful = sorted(known - self._over)

        async def shown() -> bool:
            now = {turn: await self.callers.shown(turn) for turn in doubtful}
            worlds = [world for world in self.worlds if world.talks[session_id].shows(now)]
            if worlds:
                self.worlds = worlds
            else:
                self._lag.close()  # an end may wait for the archive
            return bool(worlds)

        try:
            await wait_until(shown, SOON)
        except AssertionError as error:
            now = {turn: await self.callers.shown(turn) for turn in doubtful}
            raise AssertionError(f"{now} is in none of {self.worlds}") from error
        talk = self.worlds[0].talks[session_id]
        self._over |= {turn for turn in doubtful if turn not in talk.turns or talk.turns[turn].over}
        if talk.active and talk.turns[talk.active].state == turns.TURN_STATE_QUEUED:
            await self._running.stack.jobs.next(talk.active)

    def _take_note_of_revision(self, session_id: str, revision: int) -> None:
        fitting = [w for w in self.worlds if w.talks[session_id].revision in (None, revision)]
        assert fitting, f"the revision is {revision} without a change, in {self.worlds}"
        self.worlds = fitting
        for world in fitting:
            world.talks[session_id].revision = revision

    async def _leave(self, session_id: str) -> None:
        """Let the session leave the live store, as if nobody had used it for long."""
        talk = self.worlds[0].talks.get(session_id)
        if talk is None or talk.deleted or talk.active:
            return
        self._lag.close()
        record = keys.record_key(session_id)
        redis = self._running.store.at(record)
        # It expires once everything in it is archived; it may have left before.

        async def expires() -> bool:
            return bool(await redis.pttl(record) != PERSISTS)

        await wait_until(expires, SOON)
        await self._at_once([Call("leave", (session_id, 1))])

    async def _everything_ends(self) -> None:
        """End all turns; then each session leaves, and comes back as it was."""
        self._lag.close()
        for session_id, talk in list(self.worlds[0].talks.items()):
            for turn_id in [*talk.waiting, talk.active]:
                if turn_id:
                    await self._at_once([Call("cancel", (session_id, turn_id))])
            await self._leave(session_id)


async def _cut(links: Sequence[Proxy]) -> None:
    for link in links:
        await link.cut()


def explained(opening: AbstractAsyncContextManager[Store], examples: int) -> None:
    """Try some sequences of calls on the store, or all that were asked for."""
    with service(opening) as running:
        run_state_machine_as_test(
            lambda: Interleavings(running),  # type: ignore[arg-type] # it takes a function, too
            settings=settings(
                max_examples=EXAMPLES or examples,
                derandomize=not EXAMPLES,
                stateful_step_count=30,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            ),
        )
        sys.stdout.write(
            "\n{calls} calls in {groups} groups at once: {lost} replies to EXEC were lost, "
            "all links were cut {cuts} times\n".format(**running.figures)
        )


# Thousands of calls, and retries of most: many times slower on a machine that is busy.
pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("kind", ["valkey_server", "redis_node"])
def test_some_order_of_the_calls_explains_what_callers_see(
    kind: str, request: pytest.FixtureRequest
) -> None:
    explained(one_server(request.getfixturevalue(kind)), examples=20)


def test_some_order_of_the_calls_explains_what_callers_of_a_cluster_see() -> None:
    explained(cluster_of_six(), examples=8)
