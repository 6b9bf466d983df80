"""A replica that lacks the end of a turn's log takes the place of its primary."""

import asyncio

from maieutic.v1.turn_service_pb2 import Findings
from services.session.adapters import keys
from services.session.frames import text_of
from tests.backends.redis import RedisServer
from tests.backends.redis_cluster import asked
from tests.backends.sentinel import watched_redis
from tests.session.stack import SOON, frames_of, kinds, session_stack
from tests.session.watchers import Watcher
from tests.waiting import wait_until

NOWHERE = ("REPLICAOF", "127.0.0.1", "1")
"""Cuts a replica off: it stays a replica, with what it has."""
FRAMES_SEEN = 3
"""accepted, started, and the text up to then as one delta."""


async def log_length(server: RedisServer, turn_id: str) -> int:
    return int(await asked(server.port, "XLEN", keys.events_key(turn_id)))


async def test_who_has_not_seen_what_a_failover_lost_is_told_of_a_gap() -> None:
    async with (
        watched_redis(sentinels=1, down_after=0.5) as site,
        site.servers[0].client() as client,
        session_stack(site.url, client=client, lease=30.0, redis_timeout=20.0) as stack,
    ):
        primary, replica = site.servers
        user = stack.user()
        session_id = (await user.create()).session_id
        held = await stack.claim((await user.begin(session_id)).turn_id)
        await held.say("one two")
        stream = aiter(user.watch(held.turn_id))
        seen = [(await anext(stream)).frame for _ in range(FRAMES_SEEN)]
        watcher = Watcher(user.watch_session(session_id))
        await watcher.next()
        whole = await log_length(primary, held.turn_id)

        async def is_replicated() -> bool:
            return await log_length(replica, held.turn_id) == whole

        await wait_until(is_replicated, SOON)
        assert await asked(replica.port, *NOWHERE) == b"OK"
        await held.say("three")
        await held.complete_step("context", Findings())
        await watcher.until_kind("turn_step_finished")
        ahead = [*seen, (await anext(stream)).frame]
        await primary.kill9()
        await held.say("four")
        late = asyncio.create_task(frames_of(user.watch(held.turn_id, seen[-1].cursor)))
        on_time = asyncio.create_task(frames_of(user.watch(held.turn_id, ahead[-1].cursor)))
        await held.complete("onetwothreefour", publish=False)
        told = await late
        assert kinds(told) == ["gap", "outcome"]
        assert (told[0].gap.text, told[0].gap.text_incomplete) == ("onetwofour", True)
        assert told[0].gap.missing_frames == 1
        rest = await on_time
        assert kinds(rest) == ["delta", "outcome"]
        # The step, and the log's entry of it, are gone together.
        gap = (await watcher.until_kind("gap")).gap
        assert [turn.turn_id for turn in gap.snapshot.turns] in ([held.turn_id], [])
        if gap.snapshot.turns:
            await watcher.until_kind("turn_ended", held.turn_id)
        assert watcher.of_turns().count(("turn_ended", held.turn_id)) <= 1
        assert text_of([*ahead, *rest[:-1]]) == rest[-1].outcome.text == "onetwothreefour"
