"""Turns over gRPC: begun, worked on, watched, cancelled, on a real store."""

import asyncio
from collections.abc import AsyncIterator

import grpc

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.turn_service_pb2 import (
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TURN_STATE_QUEUED,
    TURN_STATE_RUNNING,
    TurnFrame,
    TurnOutcome,
)
from services.session.adapters import keys
from services.session.frames import text_of
from services.session.ids import Ids
from tests.session.stack import (
    SOON,
    FastSettings,
    Stack,
    User,
    bad_field,
    failure,
    frames_of,
    kinds,
    reason,
)
from tests.waiting import wait_until

APPLIED, FENCED = work.WRITE_STATUS_APPLIED, work.WRITE_STATUS_FENCED


async def test_a_turn_runs_from_the_question_to_the_archive(any_stack: Stack) -> None:
    user = any_stack.user()
    session_id = (await user.create(title="Stars")).session_id
    stream = user.stream(session_id, "Why?")
    frames = asyncio.create_task(frames_of(stream))
    turn_id = (await wait_for_active(user, session_id)).turn_id
    held = await any_stack.claim(turn_id)
    assert [m.text for m in held.claim.window] == ["Why?"]
    assert held.claim.session.title == "Stars"
    assert (await user.turn(turn_id)).state == TURN_STATE_RUNNING
    await held.say("Because it is")
    assert (await held.complete("Because it is")).status == APPLIED
    seen = await frames
    assert kinds(seen) == ["accepted", "started", "delta", "outcome"]
    assert text_of(seen[:-1]) == "Becauseitis"
    assert seen[0].accepted.turn.durable
    assert seen[-1].outcome.text == "Because it is"
    await any_stack.archived(turn_id)
    turn = await user.turn(turn_id)
    assert (turn.state, turn.outcome) == (TURN_STATE_COMPLETED, seen[-1].outcome)
    messages = await user.all_messages(session_id)
    assert [(m.position, m.text) for m in messages] == [(1, "Why?"), (2, "Because it is")]


async def wait_for_active(user: User, session_id: str) -> TurnFrame:
    """Return the first frame of the session's active turn."""

    async def active() -> bool:
        return bool((await user.get(session_id)).active_turn_id)

    await wait_until(active, SOON)
    turn_id = (await user.get(session_id)).active_turn_id
    async for response in user.watch(turn_id):
        frame: TurnFrame = response.frame
        return frame
    raise AssertionError("no frame")


async def test_the_same_request_id_begins_one_turn_and_streams_it_twice(any_stack: Stack) -> None:
    user = any_stack.user()
    session_id = (await user.create()).session_id
    begun = await asyncio.gather(*(user.begin(session_id, "Why?", "r") for _ in range(5)))
    assert len({turn.turn_id for turn in begun}) == 1
    turn_id = begun[0].turn_id
    streams = [
        asyncio.create_task(frames_of(user.stream(session_id, "Why?", "r"))) for _ in range(2)
    ]
    await any_stack.answer(turn_id, "Because it is so")
    one, two = await asyncio.gather(*streams)
    assert text_of(one) == text_of(two) == "Becauseitisso"
    assert [f.cursor for f in one] == [f.cursor for f in two]
    assert [m.text for m in await user.all_messages(session_id)] == ["Why?", "Because it is so"]
    again = await user.begin(session_id, "Why?", "r")
    assert again.outcome.text == "Because it is so"


async def test_the_same_request_id_with_another_text_is_refused(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, "Why?", "r")
    for call in (user.begin(session_id, "What?", "r"), user.stream(session_id, "What?", "r")):
        error = await failure(call)
        assert error.code() == grpc.StatusCode.ALREADY_EXISTS
        assert reason(error) == "REQUEST_ID_TAKEN"
    await stack.answer(turn.turn_id, "Because.")
    await stack.archived(turn.turn_id)
    assert reason(await failure(user.begin(session_id, "What?", "r"))) == "REQUEST_ID_TAKEN"


async def test_a_busy_session_refuses_another_turn_and_names_the_first(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id)
    error = await failure(user.begin(session_id))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason(error) == "SESSION_BUSY"
    assert turn.turn_id in (error.details() or "")


async def test_two_writers_at_two_replicas_lose_nothing(two_replicas: Stack) -> None:
    stack = two_replicas
    user = stack.user()
    session_id = (await user.create()).session_id

    async def works() -> None:
        done: set[str] = set()
        while True:
            await wait_until(lambda: any(j.turn_id not in done for _, j in stack.jobs.seen), 60)
            job = next(j for _, j in stack.jobs.seen if j.turn_id not in done)
            done.add(job.turn_id)
            held = await stack.worker(len(done) % 2).claimed(job)
            await held.complete(f"answer to {job.message.text}")

    async def writes(number: int) -> None:
        me = user.at(stack.replicas[number])
        for n in range(20):
            await begun_once_free(me, session_id, f"{number}.{n}")

    worker = asyncio.create_task(works())
    await asyncio.gather(writes(0), writes(1))

    async def free() -> bool:
        return not (await user.get(session_id)).active_turn_id

    await wait_until(free, SOON)
    worker.cancel()
    messages = await user.all_messages(session_id, 7)
    assert [m.position for m in messages] == list(range(1, 81))
    asked = [m.text for m in messages[::2]]
    assert sorted(asked) == sorted(f"{number}.{n}" for number in range(2) for n in range(20))
    assert [m.text for m in messages[1::2]] == [f"answer to {text}" for text in asked]
    assert (await user.get(session_id)).message_count == 80


async def begun_once_free(user: User, session_id: str, text: str) -> None:
    """Begin the turn, again and again while another one runs."""

    async def begun() -> bool:
        try:
            await user.begin(session_id, text, text)
        except grpc.aio.AioRpcError as error:
            if reason(error) != "SESSION_BUSY":
                raise
            return False
        return True

    await wait_until(begun, 60)


async def test_a_stream_resumes_at_every_frame_at_another_replica(two_replicas: Stack) -> None:
    stack = two_replicas
    user = stack.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id)).turn_id
    first = await stack.claim(turn_id)
    await first.say("lost text")
    await first.fail(retryable=True)
    await stack.answer(turn_id, "one two three four five", nth=2)
    whole = await user.frames(turn_id)
    elsewhere = user.at(stack.replicas[1])
    for seen in range(len(whole)):
        rest = await elsewhere.frames(turn_id, whole[seen].cursor if seen else "")
        joined = [*whole[: seen + 1], *rest] if seen < len(whole) - 1 and seen else rest
        if 0 < seen < len(whole) - 1:
            assert joined == whole
        assert rest[-1] == whole[-1]
    assert text_of(whole) == "onetwothreefourfive"
    assert kinds(whole).count("outcome") == 1


async def test_a_live_stream_goes_on_at_another_replica(two_replicas: Stack) -> None:
    stack = two_replicas
    user = stack.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id)).turn_id
    held = await stack.claim(turn_id)
    await held.say("one two")
    seen: list[TurnFrame] = []
    call = user.watch(turn_id)
    async for response in call:
        seen.append(response.frame)
        if len(seen) == 3:
            break
    call.cancel()
    elsewhere = asyncio.create_task(user.at(stack.replicas[1]).frames(turn_id, seen[-1].cursor))
    await held.say("three")
    await held.complete("one two three")
    assert text_of([*seen, *await elsewhere]) == "onetwothree"


async def test_a_cursor_that_is_not_of_this_turn_is_refused(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    other_id = (await user.begin((await user.create()).session_id)).turn_id
    foreign = (await wait_for_frame(user, other_id)).cursor
    good = (await wait_for_frame(user, turn_id)).cursor
    for cursor in (foreign, "x", "0", "-1-1-0", "1-2-3-4", good + "0", good[:-1], "0-0", "$"):
        error = await failure(user.watch(turn_id, cursor))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field(error) == "cursor"


async def wait_for_frame(user: User, turn_id: str) -> TurnFrame:
    async for response in user.watch(turn_id):
        frame: TurnFrame = response.frame
        return frame
    raise AssertionError("no frame")


async def test_an_archived_turn_without_a_log_is_a_snapshot_and_its_outcome(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id, "Why?", "r")).turn_id
    await stack.answer(turn_id, "Because it is")
    before = await user.frames(turn_id)
    await stack.archived(turn_id)
    await stack.redis.delete(keys.events_key(turn_id), keys.turn_key(turn_id))
    for frames in (
        await user.frames(turn_id),
        await user.frames(turn_id, before[2].cursor),
        await user.frames(turn_id, before[-1].cursor),
    ):
        assert kinds(frames) == ["snapshot", "outcome"]
        assert frames[0].snapshot.text == "Because it is"
        assert frames[1] == before[-1]
    again = await frames_of(user.stream(session_id, "Why?", "r"))
    assert kinds(again) == ["accepted", "snapshot", "outcome"]


async def test_a_cursor_beyond_the_log_does_not_hang(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    await stack.answer(turn_id, "Because.")
    last = (await user.frames(turn_id))[-1].cursor.split("-")
    beyond = "-".join([str(int(last[0]) + 5), "1", last[2]])
    assert kinds(await user.frames(turn_id, beyond))[-1] == "outcome"


async def test_a_queued_turn_is_cancelled(any_stack: Stack) -> None:
    user = any_stack.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id)).turn_id
    turn = await user.cancel(turn_id)
    assert (turn.state, turn.outcome.reason) == (TURN_STATE_CANCELLED, "CANCELLED_BY_CALLER")
    assert (await user.get(session_id)).active_turn_id == ""
    job = await any_stack.jobs.next(turn_id)
    assert (await any_stack.worker().claim(job)).WhichOneof("result") in ("finished", "gone")
    await any_stack.archived(turn_id)
    assert any_stack.archive.finished[turn_id].outcome == turn.outcome
    await user.begin(session_id)


async def test_a_running_turn_is_cancelled_with_what_was_said_and_no_zombie_adds_to_it(
    any_stack: Stack,
) -> None:
    user = any_stack.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id)).turn_id
    held = await any_stack.claim(turn_id)
    await held.say("half an")
    watching = asyncio.create_task(user.frames(turn_id))
    turn = await user.cancel(turn_id)
    assert (turn.state, turn.outcome.text) == (TURN_STATE_CANCELLED, "halfan")
    assert list((await held.record(["answer"])).fenced_turn_ids) == [turn_id] * 2
    assert (await held.complete("half an answer")).status == FENCED
    assert (await held.fail(retryable=True)).status == FENCED
    assert await held.release() == FENCED
    frames = await watching
    assert kinds(frames).count("outcome") == 1
    assert (frames[-1].outcome, text_of(frames)) == (turn.outcome, "halfan")
    assert (await user.cancel(turn_id)).outcome == turn.outcome
    messages = await user.all_messages(session_id)
    assert [m.text for m in messages] == ["Why?", "halfan"]


async def test_a_turn_that_comes_while_it_is_cancelled_is_stopped_all_the_same(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn_id = Ids(FastSettings().id_key.encode()).turn(session_id, "r")

    async def it_comes() -> None:
        stack.archive.after_turn = None
        await user.begin(session_id, "Why?", "r")

    stack.archive.after_turn = it_comes
    assert (await user.cancel(turn_id)).state == TURN_STATE_CANCELLED


async def test_cancelling_what_has_ended_returns_its_outcome(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    await stack.answer(turn_id, "Because.")
    assert (await user.cancel(turn_id)).outcome.text == "Because."
    await stack.archived(turn_id)
    turn = await user.cancel(turn_id)
    assert (turn.state, turn.outcome.text) == (TURN_STATE_COMPLETED, "Because.")


async def test_many_cancels_at_two_replicas_end_a_turn_once(two_replicas: Stack) -> None:
    user = two_replicas.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    callers = [user.at(replica) for replica in two_replicas.replicas * 4]
    turns = await asyncio.gather(*(caller.cancel(turn_id) for caller in callers))
    ended = await user.ended(turn_id)
    assert all(turn.outcome in (ended.outcome, TurnOutcome()) for turn in turns)
    assert kinds(await user.frames(turn_id)).count("outcome") == 1


async def test_the_first_outcome_is_immutable(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    held = await stack.claim(turn_id)
    with stack.archiver.paused():
        first = await held.complete("Because.")
        again = await held.complete("Something else.")
        assert again == first
        assert (await held.fail(retryable=False)).finished == first.finished
    await stack.archived(turn_id)
    assert (await held.complete("Something else.")).status == FENCED
    assert (await user.turn(turn_id)).outcome.text == "Because."


async def test_the_same_claim_gets_the_same_answer_and_others_are_held(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    job = await stack.jobs.next(turn_id)
    worker = stack.worker()
    first = await worker.claim(job, "c1")
    again = await worker.claim(job, "c1")
    assert (again.claim.fence, again.claim.attempt) == (first.claim.fence, 1)
    assert (await stack.worker().claim(job, "c2")).HasField("held")


async def test_an_outcome_before_its_last_frame_is_aborted(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    held = await stack.claim(turn_id)
    await held.say("one two")
    held.seq = 3
    error = await failure(held.complete("one two three"))
    assert error.code() == grpc.StatusCode.ABORTED
    assert reason(error) == "EVENTS_OUT_OF_STEP"


async def test_a_batch_recorded_twice_is_there_once(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    held = await stack.claim(turn_id)
    for _ in range(3):
        response = await held.record(["a", "b"], first_seq=1)
        assert not response.fenced_turn_ids
    await held.complete("ab")
    assert text_of(await user.frames(turn_id)) == "ab"


async def test_a_release_does_not_count_and_the_turn_stays_durable(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    held = await stack.claim(turn_id)
    assert await held.release() == APPLIED
    turn = await user.turn(turn_id)
    assert (turn.state, turn.attempt, turn.durable) == (TURN_STATE_QUEUED, 0, True)
    second = await stack.claim(turn_id, nth=2)
    assert second.claim.attempt == 1
    assert await held.release() == FENCED


async def test_a_failed_attempt_is_tried_again_until_attempts_are_spent(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn_id = (await user.begin(session_id)).turn_id
    for attempt in (1, 2, 3):
        held = await stack.claim(turn_id, nth=attempt)
        assert held.claim.attempt == attempt
        response = await held.fail(retryable=True)
        assert response.HasField("finished") == (attempt == 3)
    turn = await user.ended(turn_id)
    assert (turn.state, turn.outcome.reason) == (TURN_STATE_FAILED, "MODEL_AWAY")
    assert turn.outcome.attempts == 3
    assert [m.text for m in await user.all_messages(session_id)] == ["Why?"]
    await user.begin(session_id)


async def test_a_permanent_failure_is_not_tried_again(stack: Stack) -> None:
    user = stack.user()
    turn_id = (await user.begin((await user.create()).session_id)).turn_id
    held = await stack.claim(turn_id)
    assert (await held.fail(retryable=False, reason="REFUSED")).HasField("finished")
    assert (await user.turn(turn_id)).outcome.reason == "REFUSED"


async def test_callers_may_not_do_the_workers_and_the_archives_work(stack: Stack) -> None:
    user = stack.user()
    job = await stack.jobs.next((await user.begin((await user.create()).session_id)).turn_id)
    replica = stack.first

    async def batches() -> AsyncIterator[work.RecordTurnEventsRequest]:
        yield work.RecordTurnEventsRequest()

    with user.acting():
        for call in (
            replica.gateway_work.ClaimTurn(work.ClaimTurnRequest(job=job)),
            replica.gateway_work.RecordTurnEvents(batches()),
            replica.gateway_work.ListTurnMessages(work.ListTurnMessagesRequest()),
            replica.gateway_work.CompleteTurn(work.CompleteTurnRequest()),
            replica.gateway_work.FailTurn(work.FailTurnRequest()),
            replica.gateway_work.ReleaseTurn(work.ReleaseTurnRequest()),
            replica.gateway_work.MarkArchived(work.MarkArchivedRequest()),
            replica.gateway_work.EnsureTurns(work.EnsureTurnsRequest()),
            replica.work.MarkArchived(work.MarkArchivedRequest()),
            replica.archive.ClaimTurn(work.ClaimTurnRequest(job=job)),
        ):
            error = await failure(call)
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED
            assert reason(error) == "SERVICES_ONLY"


async def test_a_claim_without_ids_is_refused(stack: Stack) -> None:
    error = await failure(stack.first.work.ClaimTurn(work.ClaimTurnRequest()))
    assert bad_field(error) == "job.turn_id"
