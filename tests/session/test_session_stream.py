"""The stream of a session, over gRPC on a real store."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionDeleted
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.session.v1.record_pb2 import TurnRecord
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC, SessionFrame
from maieutic.v1.specification_pb2 import Specification
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    TURN_KIND_ANALYSIS,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    Findings,
)
from services.session.adapters import keys
from services.session.adapters.redis import RedisSessionStore
from services.session.beginning import begin
from services.session.ending import Ending, end
from services.session.happenings import MOST_BYTES
from services.session.model import SESSION_LOG_FRAMES, TERMINAL, Draft
from services.session.ports import Reads
from services.session.session_log import FRAMES_AT_ONCE, SessionLog, SharedLooks
from tests.session.stack import SOON, Stack, User, bad_field, failure, session_stack
from tests.session.stored import TIMING, make, new_session, new_turn
from tests.session.test_side_turns import analysis_of, settled
from tests.session.watchers import Watcher, about_turns, kind_of, watching
from tests.waiting import wait_until

BEGUN = ["turn_accepted", "turn_started", "turn_ended"]


def found(count: int = 1, value: str = "SQLite") -> Findings:
    return Findings(
        specifications=[
            Specification(category="technology", key=f"k{n}", value=value, confidence=0.9)
            for n in range(count)
        ]
    )


async def answered(stack: Stack, user: User, session_id: str) -> str:
    turn_id = (await user.begin(session_id)).turn_id
    await stack.answer(turn_id, "Because.")
    return turn_id


async def test_a_watcher_is_told_everything_about_a_turn_and_its_analysis_but_text(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create(mode=SESSION_MODE_SOCRATIC)).session_id
    async with watching(user, session_id) as watcher:
        first = await watcher.next()
        assert first.snapshot.current.session.session_id == session_id
        assert not first.snapshot.turns
        turn = await user.begin(session_id, "It must run on SQLite.")
        analysis = await stack.claim((await analysis_of(stack, turn)).turn_id)
        await analysis.complete_step("context", found())
        await analysis.complete("")
        await watcher.until_kind("turn_ended")
        await stack.answer(turn.turn_id, "Why SQLite?")
        ended = await watcher.until_kind("turn_ended")
        assert (ended.turn_id, ended.turn_ended.outcome.state) == (
            turn.turn_id,
            TURN_STATE_COMPLETED,
        )
        assert not ended.turn_ended.outcome.text
        assert watcher.of_turns() == [
            ("turn_accepted", turn.turn_id),
            ("turn_accepted", analysis.turn_id),
            ("turn_started", analysis.turn_id),
            ("turn_step_finished", analysis.turn_id),
            ("turn_ended", analysis.turn_id),
            ("turn_started", turn.turn_id),
            ("turn_ended", turn.turn_id),
        ]
        step = next(f for f in watcher.frames if kind_of(f) == "turn_step_finished")
        assert (step.kind, step.parent_turn_id) == (TURN_KIND_ANALYSIS, turn.turn_id)
        assert step.turn_step_finished.step == "context"
        (specification,) = step.turn_step_finished.findings.specifications
        assert specification.value == "SQLite"
        accepted = next(f for f in watcher.frames if kind_of(f) == "turn_accepted")
        assert not accepted.turn_accepted.turn.text
        changed = await watcher.until(lambda f: f.session_changed.session.message_count == 2)
        assert changed.session_changed.annotations_revision > 0


async def test_from_any_cursor_on_at_any_replica_the_rest_is_told_once_and_in_its_order(
    two_replicas: Stack,
) -> None:
    stack, user = two_replicas, two_replicas.user()
    session_id = (await user.create()).session_id
    async with watching(user, session_id) as watcher:
        await watcher.next()
        turns = [await answered(stack, user, session_id) for _ in range(3)]
        await watcher.until_kind("turn_ended", turns[-1])
        whole = watcher.frames
    assert [kind for kind, _ in about_turns(whole)] == BEGUN * 3
    other = user.at(stack.replicas[1])
    for place, frame in enumerate(whole):
        async with watching(other, session_id, frame.cursor) as again:
            rest = about_turns(whole[place + 1 :])
            while len(again.of_turns()) < len(rest):
                await again.next()
            assert again.of_turns() == rest


async def test_changes_of_the_session_itself_are_told_as_its_latest_state(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(title="old")).session_id
    async with watching(user, session_id) as watcher:
        snapshot = (await watcher.next()).snapshot
        for title in ("a", "b", "new"):
            await user.update(session_id, title=title)
        changed = await watcher.until(lambda f: f.session_changed.session.title == "new")
        assert changed.session_changed.session.revision > snapshot.current.session.revision
        before_note = watcher.cursor
        await user.add_note(session_id, "kept")
        changed = await watcher.until_kind("session_changed")
        assert changed.session_changed.annotations_revision > 0
    # What was missed meanwhile is told to whoever comes back.
    async with watching(user, session_id, before_note) as again:
        told = (await again.next()).session_changed
        assert told.annotations_revision == changed.session_changed.annotations_revision


async def test_the_snapshot_has_every_turn_that_has_not_ended(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(mode=SESSION_MODE_SOCRATIC)).session_id
    running = await user.begin(session_id, "first")
    analysis = await analysis_of(stack, running)
    held = await stack.claim(running.turn_id)
    waiting = await user.begin(session_id, "second", policy=BUSY_POLICY_ENQUEUE)
    async with watching(user, session_id) as watcher:
        shown = (await watcher.next()).snapshot
        assert [turn.turn_id for turn in shown.turns][:2] == [running.turn_id, waiting.turn_id]
        assert analysis.turn_id in {turn.turn_id for turn in shown.turns}
        assert shown.turns[1].waiting_position == 1
        assert not any(turn.text for turn in shown.turns)
        await held.complete("done")
        assert (await watcher.until_kind("turn_ended")).turn_id == running.turn_id


async def test_a_deleted_session_is_told_last_and_is_not_found_from_then_on(
    two_replicas: Stack,
) -> None:
    stack, user = two_replicas, two_replicas.user()
    session_id = (await user.create()).session_id
    async with watching(user.at(stack.replicas[1]), session_id) as watcher:
        await watcher.next()
        await user.delete(session_id)
        last = await watcher.until_kind("session_deleted")
        with pytest.raises(EOFError):
            await watcher.next()
    assert "NOT_FOUND" in str(await failure(user.watch_session(session_id, last.cursor)))


async def test_the_deletion_of_a_session_is_told_though_the_store_has_lost_its_tombstone(
    store_url: str,
) -> None:
    async with session_stack(store_url, stream_heartbeat=0.1) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        await settled(stack, session_id)
        async with watching(user, session_id) as watcher:
            await watcher.next()
            await stack.forget(session_id)
            await watcher.until_kind("")
            stack.archive.deleted[session_id] = SessionDeleted(session_id=session_id)
            await watcher.until_kind("session_deleted")
            with pytest.raises(EOFError):
                await watcher.next()


async def test_other_peoples_sessions_and_cursors_are_refused(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    other = (await user.create()).session_id
    async with watching(user, session_id) as watcher:
        cursor = (await watcher.next()).cursor
    stranger = stack.user(tenant=user.tenant)
    assert "NOT_FOUND" in str(await failure(stranger.watch_session(session_id)))
    assert "NOT_FOUND" in str(await failure(stranger.watch_session(session_id, cursor)))
    tag = cursor.rpartition("-")[2]
    bad = ["x", "1-1-1", f"1-1-{tag}", f"1-1-1-1-{tag}", f"-1-1-1-{tag}", f"{'9' * 16}-0-0-{tag}"]
    for wrong in [*bad, f"1-²-1-{tag}", "1-1-1-00000000"]:
        error = await failure(user.watch_session(session_id, wrong))
        assert (error.code().name, bad_field(error)) == ("INVALID_ARGUMENT", "cursor")
    error = await failure(user.watch_session(other, cursor))
    assert (error.code().name, bad_field(error)) == ("INVALID_ARGUMENT", "cursor")


async def test_whoever_comes_back_after_the_log_was_trimmed_gets_a_gap_and_then_the_rest(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    async with watching(user, session_id) as watcher:
        cursor = (await watcher.next()).cursor
    turn = await user.begin(session_id)
    held = await stack.claim(turn.turn_id)
    log = keys.session_events_key(session_id)
    assert await stack.redis.xtrim(log, maxlen=1, approximate=False) > 0
    async with watching(user, session_id, cursor) as again:
        gap = (await again.next()).gap
        assert [turn.turn_id for turn in gap.snapshot.turns] == [held.turn_id]
        await held.complete("done")
        await again.until_kind("turn_ended", held.turn_id)
        assert "gap" not in [kind_of(frame) for frame in again.frames[1:]]


async def test_what_is_more_than_a_page_is_told_before_the_state_that_it_led_to(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    async with watching(user, session_id) as watcher:
        cursor = (await watcher.next()).cursor
    frame = SessionFrame(turn_id="t")
    frame.turn_started.attempt = 1
    pipe = stack.redis.pipeline()
    for _ in range(FRAMES_AT_ONCE + 10):
        pipe.xadd(keys.session_events_key(session_id), {"f": frame.SerializeToString()})
    await pipe.execute()
    await user.update(session_id, title="new")
    async with watching(user, session_id, cursor) as again:
        await again.until_kind("session_changed")
        assert len(again.of_turns()) == FRAMES_AT_ONCE + 10


async def test_a_session_that_nobody_watches_has_no_log_until_somebody_does(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    log = keys.session_events_key(session_id)
    await answered(stack, user, session_id)
    assert not await stack.redis.exists(log)
    turn = await user.begin(session_id)
    async with watching(user, session_id) as watcher:
        first = (await watcher.next()).snapshot
        assert [shown.turn_id for shown in first.turns] == [turn.turn_id]
        await stack.answer(turn.turn_id, "Because.")
        await watcher.until_kind("turn_ended", turn.turn_id)
        assert await stack.redis.xlen(log) == len(["begun", "turn_started", "turn_ended"])


async def test_the_log_of_a_session_stays_short(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    log = keys.session_events_key(session_id)
    async with watching(user, session_id) as watcher:
        await watcher.next()
    turn = await user.begin(session_id)
    pipe = stack.redis.pipeline()
    for _ in range(3 * SESSION_LOG_FRAMES):
        pipe.xadd(log, {"f": b""})
    await pipe.execute()
    await stack.answer(turn.turn_id, "Because.")
    assert SESSION_LOG_FRAMES <= await stack.redis.xlen(log) < SESSION_LOG_FRAMES + 200


async def test_a_reader_who_does_not_read_holds_nothing_up_and_is_told_of_a_gap(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    async with watching(user, session_id) as watcher:
        await watcher.next()
        turn = await user.begin(session_id)
        held = await stack.claim(turn.turn_id)
        log = keys.session_events_key(session_id)
        frame = SessionFrame(parent_turn_id="x" * 4096)
        frame.turn_started.attempt = 1
        for _ in range(60):
            pipe = stack.redis.pipeline()
            for _ in range(50):
                pipe.xadd(log, {b"f": frame.SerializeToString()}, maxlen=SESSION_LOG_FRAMES)
            pipe.publish(keys.session_wake_channel(session_id), b"")
            await pipe.execute()
        assert (await watcher.until_kind("gap")).gap.snapshot.turns
        await held.complete("done")
        # What was on its way already may be followed by a second gap.
        await watcher.until(
            lambda f: f.HasField("turn_ended") or (f.HasField("gap") and not f.gap.snapshot.turns)
        )
        assert len(watcher.frames) < 60 * 50


async def test_a_store_that_lost_everything_is_a_gap_and_no_error(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    async with watching(user, session_id) as watcher:
        await watcher.next()
        turn = await user.begin(session_id)
        await wait_until(lambda: turn.turn_id in stack.archive.accepted, SOON)
        await watcher.until_kind("turn_accepted")
        cursor = watcher.cursor
        await stack.redis.flushdb()
        held = await stack.claim(turn.turn_id)
        gap = await watcher.until_kind("gap")
        assert [t.turn_id for t in gap.gap.snapshot.turns] == [turn.turn_id]
        await held.complete("done")
        await watcher.until_kind("turn_ended", turn.turn_id)
    async with watching(user, session_id, cursor) as again:
        assert kind_of(await again.next()) == "gap"


async def test_the_stream_of_a_session_that_left_the_store_goes_on_once_it_is_used(
    store_url: str,
) -> None:
    async with session_stack(store_url, stream_heartbeat=0.05) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        await stack.archived(await answered(stack, user, session_id))
        await settled(stack, session_id)
        async with watching(user, session_id) as watcher:
            await watcher.next()
            await stack.forget(session_id)
            await stack.redis.delete(keys.session_events_key(session_id))
            await watcher.until_kind("")
            assert not await stack.redis.exists(keys.record_key(session_id))
            turn_id = await answered(stack, user, session_id)
            gap = await watcher.until_kind("gap")
            assert gap.gap.snapshot.current.session.session_id == session_id
            live = [turn.turn_id for turn in gap.gap.snapshot.turns]
            if turn_id in live:
                await watcher.until_kind("turn_ended", turn_id)


async def test_a_session_that_comes_back_has_no_log_before_somebody_watches_it_again(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    await stack.archived(await answered(stack, user, session_id))
    await settled(stack, session_id)
    await stack.forget(session_id)
    await answered(stack, user, session_id)
    assert not await stack.redis.exists(keys.session_events_key(session_id))


async def test_watching_alone_does_not_keep_a_session(store_url: str) -> None:
    async with session_stack(store_url, idle=0.5, stream_heartbeat=0.05) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        async with watching(user, session_id) as watcher:
            await watcher.next()

            async def left() -> bool:
                return not await stack.redis.exists(keys.record_key(session_id))

            await wait_until(left, SOON)
            turn = await user.begin(session_id)
            await watcher.until_kind("turn_accepted", turn.turn_id)
            assert "gap" not in map(kind_of, watcher.frames)


async def test_a_silent_stream_says_that_it_is_still_there_and_its_cursor_holds(
    store_url: str,
) -> None:
    async with session_stack(store_url, stream_heartbeat=0.05) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        async with watching(user, session_id) as watcher:
            await watcher.next()
            for _ in range(2):
                assert kind_of(await watcher.next()) == ""
        turn_id = await answered(stack, user, session_id)
        async with watching(user, session_id, watcher.cursor) as again:
            await again.until_kind("turn_ended", turn_id)
            assert [kind for kind, _ in again.of_turns()] == BEGUN


async def test_a_log_that_was_replaced_costs_no_turn_anything_and_watchers_a_gap(
    any_stack: Stack,
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id)
    async with watching(user, session_id) as watcher:
        await watcher.next()
        log = keys.session_events_key(session_id)
        pipe = stack.redis.pipeline(transaction=True)
        pipe.delete(log)
        pipe.set(log, "something else")
        await pipe.execute()
        await stack.answer(turn.turn_id, "Because.")
        assert (await user.ended(turn.turn_id)).outcome.text == "Because."
        gap = await watcher.until_kind("gap")
        assert await stack.redis.type(log) == b"stream"
        if gap.gap.snapshot.turns:
            await watcher.until_kind("turn_ended", turn.turn_id)
    shard = log.split(":")[0]
    assert [key async for key in stack.redis.scan_iter(match=f"{shard}:q:wrong_type:s:*:ev:*")]


async def test_a_log_that_was_lost_alone_begins_anew_and_goes_with_its_session(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    log = keys.session_events_key(session_id)
    await settled(stack, session_id)
    async with watching(user, session_id) as watcher:
        await watcher.next()
        assert await stack.redis.pttl(log) > 0
        await stack.redis.delete(log)
        await watcher.until_kind("gap")
        assert await stack.redis.pttl(log) > 0


async def test_a_turn_that_ends_while_the_snapshot_is_taken_is_told_as_ended(
    store_url: str,
) -> None:
    session_id = new_session()
    job = RunTurn(turn_id=new_turn(session_id))
    job.message.session_id = session_id

    class Hurried(RedisSessionStore):
        """In which the turn ends just before it is read."""

        async def turns(self, turn_ids: Sequence[str]) -> list[TurnRecord | None]:
            def decide(draft: Draft) -> None:
                if draft.turns[job.turn_id].phase != TERMINAL:
                    ending = Ending(state=TURN_STATE_COMPLETED)
                    end(draft, draft.turns[job.turn_id], ending, TIMING)

            await self.transact(session_id, decide, Reads(turns=[job.turn_id]))
            return await super().turns(turn_ids)

    async with Hurried.connect(store_url, timing=TIMING) as store:
        await store.transact(session_id, make(session_id))
        await store.transact(session_id, lambda draft: begin(draft, job, TIMING))
        log = SessionLog(store, SharedLooks(store), session_id, None)
        (frame,) = await log.next()
        assert not frame.snapshot.turns
        assert not await log.next()


async def test_an_entry_that_cannot_be_read_is_a_gap(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    async with watching(user, session_id) as watcher:
        await watcher.next()
        await stack.redis.xadd(keys.session_events_key(session_id), {"f": b"\xff\xff"})
        await watcher.until_kind("gap")
        turn_id = await answered(stack, user, session_id)
        await watcher.until_kind("turn_ended", turn_id)


async def test_what_is_too_large_for_the_stream_is_said_to_be_elsewhere(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(mode=SESSION_MODE_SOCRATIC)).session_id
    many = found(30, "x" * 900)
    assert many.ByteSize() > MOST_BYTES
    turn = await user.begin(session_id)
    analysis = await stack.claim((await analysis_of(stack, turn)).turn_id)
    async with watching(user, session_id) as watcher:
        await watcher.next()
        await analysis.complete_step("context", many)
        await analysis.complete("")
        step = (await watcher.until_kind("turn_step_finished")).turn_step_finished
        assert (step.step, step.shortened) == ("context", True)
        assert not step.HasField("findings")
        ended = (await watcher.until_kind("turn_ended")).turn_ended
        assert (ended.outcome.state, ended.shortened) == (TURN_STATE_COMPLETED, True)


async def test_a_lost_reply_and_a_stale_worker_tell_nothing_twice(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(mode=SESSION_MODE_SOCRATIC)).session_id
    async with watching(user, session_id) as watcher:
        await watcher.next()
        turn = await user.begin(session_id, request_id="r1")
        await user.begin(session_id, request_id="r1")
        job = await analysis_of(stack, turn)
        worker = stack.worker()
        held = await worker.claimed(job, "c1")
        await worker.claimed(job, "c1")
        for _ in range(2):
            await held.complete_step("context", found())
        stale = await stack.worker().claim(job)
        assert stale.HasField("held")
        done = [await held.complete("", publish=False) for _ in range(2)]
        assert [each.status for each in done] == [work.WRITE_STATUS_APPLIED] * 2
        await stack.archiver.publish(stack.bus, done[0].finished)
        await stack.archived(job.turn_id)
        await user.cancel(turn.turn_id)
        await user.cancel(turn.turn_id)
        last = await watcher.until_kind("turn_ended", turn.turn_id)
        assert last.turn_ended.outcome.state == TURN_STATE_CANCELLED
        again = await answered(stack, user, session_id)
        await watcher.until_kind("turn_ended", again)
        told = watcher.of_turns()
        assert len(told) == len(set(told))
        assert {kind for kind, of in told if of == job.turn_id} == {
            *BEGUN,
            "turn_step_finished",
        }


async def test_a_hundred_watchers_of_a_session_cost_one_reading_each_time(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    key = keys.session_events_key(session_id)

    async def readings() -> int:
        found: dict[str, Any] = await stack.redis.info("commandstats")
        return sum(found.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xrange",))

    calls = [user.watch_session(session_id) for _ in range(100)]
    watchers = [Watcher(call) for call in calls]
    await asyncio.gather(*(watcher.next() for watcher in watchers))
    before = await readings()
    turn_id = await answered(stack, user, session_id)
    await asyncio.gather(*(watcher.until_kind("turn_ended", turn_id) for watcher in watchers))
    assert {tuple(watcher.of_turns()) for watcher in watchers} == {
        tuple((kind, turn_id) for kind in BEGUN)
    }
    spent = await readings() - before
    assert await stack.redis.exists(key)
    assert spent < 30, spent
    for call in calls:
        call.cancel()
