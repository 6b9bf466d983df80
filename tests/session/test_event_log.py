"""A turn's log as its watchers get it, on a real store: trimmed, with holes, and far ahead."""

import asyncio

import pytest

from maieutic.v1.turn_service_pb2 import TurnDelta, TurnFrame, TurnSnapshot
from services.runtime import names
from services.session.adapters import keys
from services.session.frames import MERGED_CHARACTERS, text_of
from services.session.model import LOG_FRAMES
from services.session.watching import FRAMES_AT_ONCE
from tests.recorded import recording
from tests.session.stack import Held, Stack, User, frames_of, kinds, session_stack


async def running(stack: Stack) -> tuple[User, str, Held]:
    """Return a user, a session, and its turn in a worker's hands."""
    user = stack.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id, "Why?", "r")).turn_id
    return user, session_id, await stack.claim(turn_id)


async def trim(stack: Stack, held: Held, keep: int) -> None:
    await stack.redis.xtrim(keys.events_key(held.turn_id), maxlen=keep, approximate=False)


async def lose(stack: Stack, held: Held, *numbers: int) -> None:
    """Lose frames, as a failover does that promotes a replica which had not received them."""
    fence = held.claim.fence
    await stack.redis.xdel(keys.events_key(held.turn_id), *(f"{fence}-{n}" for n in numbers))


async def test_a_cursor_before_what_is_left_gets_a_gap_with_all_the_text(any_stack: Stack) -> None:
    user, _, held = await running(any_stack)
    await held.say("one two")
    stream = aiter(user.watch(held.turn_id))
    seen = [(await anext(stream)).frame for _ in range(3)]
    await held.record_frames(
        [TurnFrame(snapshot=TurnSnapshot(text="onetwothree")), TurnFrame(delta=TurnDelta(text="4"))]
    )
    await trim(any_stack, held, 2)
    resumed = aiter(user.watch(held.turn_id, seen[1].cursor))
    gap = (await anext(resumed)).frame
    assert (gap.gap.text, gap.gap.text_incomplete) == ("onetwothree4", False)
    assert gap.gap.missing_frames == 2
    await held.say("five")
    await held.complete("onetwothree4five")
    rest = [response.frame async for response in resumed]
    assert kinds(rest) == ["delta", "outcome"]
    assert text_of([gap, *rest[:-1]]) == "onetwothree4five"
    assert await user.frames(held.turn_id, gap.cursor) == rest


async def test_from_the_start_of_a_trimmed_log_a_gap_is_the_start(stack: Stack) -> None:
    user, session_id, held = await running(stack)
    await held.say("one two three")
    await trim(stack, held, 2)
    await held.complete("one two three")
    watched = await user.frames(held.turn_id)
    assert kinds(watched) == ["gap", "outcome"]
    assert (watched[0].gap.text, watched[0].gap.text_incomplete) == ("twothree", True)
    streamed = await frames_of(user.stream(session_id, "Why?", "r"))
    assert kinds(streamed) == ["accepted", "gap", "outcome"]
    assert streamed[1:] == watched
    assert await user.frames(held.turn_id, streamed[0].cursor) == watched


async def test_frames_that_a_failover_lost_are_missed_by_those_who_have_not_seen_them(
    any_stack: Stack,
) -> None:
    user, _, held = await running(any_stack)
    await held.say("one two")
    behind = aiter(user.watch(held.turn_id))
    seen = [(await anext(behind)).frame for _ in range(3)]
    await held.record(["three"])
    ahead = aiter(user.watch(held.turn_id, seen[-1].cursor))
    further = (await anext(ahead)).frame
    await lose(any_stack, held, 2, 3)
    await held.record(["four"])
    assert text_of([*seen, further, (await anext(ahead)).frame]) == "onetwothreefour"
    late = aiter(user.watch(held.turn_id, seen[1].cursor))
    parts = [(await anext(late)).frame for _ in range(2)]
    assert kinds(parts) == ["delta", "gap"]
    assert (parts[1].gap.text, parts[1].gap.text_incomplete) == ("onefour", True)
    assert parts[1].gap.missing_frames == 2
    await held.complete("onetwothreefour")
    assert kinds([response.frame async for response in late]) == ["outcome"]
    for stream in (ahead, behind):
        ends = [response.frame async for response in stream]
        assert kinds(ends).count("outcome") == 1


async def test_every_cursor_of_a_torn_log_leads_to_one_outcome(stack: Stack) -> None:
    user, _, held = await running(stack)
    cursors = [""]
    async for response in user.watch(held.turn_id):
        cursors.append(response.frame.cursor)
        if len(cursors) == 12:
            break
        await held.say(str(len(cursors)))
    await lose(stack, held, 3, 4, 7)
    await trim(stack, held, 7)
    await held.complete("whole")
    cursors += [frame.cursor for frame in await user.frames(held.turn_id)]
    for cursor in cursors:
        frames = await user.frames(held.turn_id, cursor)
        assert kinds(frames).count("outcome") == 1
        assert frames[-1].outcome.text == "whole"


async def test_a_slow_reader_gets_what_waits_in_few_frames(stack: Stack) -> None:
    user, _, held = await running(stack)
    stream = aiter(user.watch(held.turn_id))
    seen = [(await anext(stream)).frame for _ in range(2)]
    said = ""
    for number in range(15):
        words = [f"{number}.{n} " for n in range(100)]
        said += "".join(words)
        await held.record(words)
    await held.complete(said)
    while not seen[-1].HasField("outcome"):
        seen.append((await anext(stream)).frame)
        await asyncio.sleep(0)
    assert text_of(seen) == said
    assert kinds(seen).count("delta") < 50


async def test_of_a_stalled_readers_log_the_service_holds_a_page_or_two(stack: Stack) -> None:
    user, _, held = await running(stack)
    stream = aiter(user.watch(held.turn_id))
    seen = [(await anext(stream)).frame for _ in range(2)]
    word = "x" * 4_000
    read, before = -1, await pages_read(stack)
    for _ in range(18):
        await held.record([word] * 100)
    while read != (read := await pages_read(stack) - before):
        await asyncio.sleep(0.1)
    assert 0 < read <= 9, "half of the pages, with what the connection holds by itself"
    await held.complete("whole")
    seen += [response.frame async for response in stream]
    assert text_of(seen[:-1]) == word * 1_800
    assert max(len(frame.delta.text) for frame in seen) < MERGED_CHARACTERS + len(word)


async def pages_read(stack: Stack) -> int:
    calls: int = (await stack.redis.info("commandstats"))["cmdstat_xrange"]["calls"]
    return calls


@pytest.mark.parametrize("workers_repeat", [True, False])
async def test_a_turn_that_streams_without_end_keeps_its_log_short(
    stack: Stack, *, workers_repeat: bool
) -> None:
    user, _, held = await running(stack)
    begun = (await anext(aiter(user.watch(held.turn_id)))).frame.cursor
    said = ""
    for number in range(30):
        words = [f"{number}.{n} " for n in range(100)]
        said += "".join(words)
        await held.record(words)
        if workers_repeat and number % 5 == 4:
            await held.record_frames([TurnFrame(snapshot=TurnSnapshot(text=said))])
    length = await stack.redis.xlen(keys.events_key(held.turn_id))
    assert LOG_FRAMES <= length <= LOG_FRAMES + 2 * FRAMES_AT_ONCE
    stopped = await user.cancel(held.turn_id)
    frames = await user.frames(held.turn_id, begun)
    assert kinds(frames)[0] == "gap"
    assert frames[0].gap.text_incomplete is not workers_repeat
    assert (stopped.outcome.text == said) is workers_repeat
    assert said.endswith(stopped.outcome.text)
    assert kinds(frames).count("outcome") == 1


async def test_gaps_are_counted_by_whether_text_is_missing(store_url: str) -> None:
    async with recording() as recorded, session_stack(store_url) as stack:
        user, _, held = await running(stack)
        await held.say("one two three")
        await trim(stack, held, 2)
        await held.complete("one two three")
        for _ in range(2):
            await user.frames(held.turn_id)
        points = recorded.points(names.STREAM_GAPS, names.TEXT_INCOMPLETE)
        assert {key: point.value for key, point in points.items()} == {(True,): 2}
