"""Turns that write files, as the session service keeps them: over gRPC on a real store."""

import grpc

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_CODE,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TURN_STATE_RUNNING,
    CodeManifest,
    Findings,
    ManifestFile,
    Turn,
    TurnDelta,
    TurnFile,
    TurnFrame,
)
from services.session.adapters import keys
from tests.session.stack import Held, Stack, User, failure, kinds

PLAN = Findings(manifest=CodeManifest(files=[ManifestFile(path="a.py"), ManifestFile(path="b.py")]))


async def begun(stack: Stack, instructions: str = "A library.") -> tuple[User, Turn, Held]:
    """Return a user's code turn in the hands of a worker that has planned its files."""
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = (await user.generate_code(session_id, instructions).read()).frame.accepted.turn
    held = await stack.claim(turn.turn_id, queue="long")
    await held.complete_step("code_plan", PLAN)
    return user, turn, held


async def written(held: Held, path: str, number: int) -> Artifact:
    """Write a file of the plan and commit it."""
    begins = TurnFile(path=path, index=number, total=2)
    await held.record_frames([TurnFrame(file=begins), TurnFrame(delta=TurnDelta(text=f"#{path}"))])
    artifact: Artifact = (await held.put(path, f"#{path}".encode())).artifact
    done = await held.complete_step(f"code_file:{number}", Findings(), artifacts=[artifact])
    assert done.status == work.WRITE_STATUS_APPLIED
    finished = TurnFile(path=path, index=number, total=2, artifact=artifact)
    await held.record_frames([TurnFrame(file=finished)])
    return artifact


async def test_code_is_written_beside_the_conversation_on_the_long_lane(any_stack: Stack) -> None:
    user, turn, held = await begun(any_stack)
    job = any_stack.jobs.of(turn.turn_id)[0]
    assert (turn.kind, job.lane, list(job.steps)) == (TURN_KIND_CODE, "long", ["code_plan"])
    assert (turn.text, job.time_budget.seconds) == ("A library.", 3600)
    question = await user.begin(turn.session_id, "Why?")
    await any_stack.answer(question.turn_id, "Because.")
    await user.ended(question.turn_id)
    files = [await written(held, path, number) for number, path in enumerate(("a.py", "b.py"), 1)]
    await held.complete("2 files")
    ended = await user.ended(turn.turn_id)
    assert (ended.outcome.state, ended.outcome.text) == (TURN_STATE_COMPLETED, "2 files")
    assert list(ended.outcome.artifacts) == files
    assert ended.outcome.findings == PLAN
    texts = [message.text for message in await user.all_messages(turn.session_id)]
    assert texts == ["Why?", "Because."]
    await any_stack.archived(turn.turn_id)
    paths, _ = await user.artifacts(turn_id=turn.turn_id)
    assert sorted(paths) == ["a.py", "b.py"]


async def test_a_store_with_fewer_steps_than_its_worker_commits_nothing_until_they_are_back(
    stack: Stack,
) -> None:
    user, turn, held = await begun(stack)
    for status in (
        (await held.complete_step("code_file:1", Findings(), finished_steps=2)).status,
        (await held.complete("1 file", publish=False, finished_steps=2)).status,
        (await held.fail(retryable=False, finished_steps=2)).status,
    ):
        assert status == work.WRITE_STATUS_MISSING
    assert (await user.turn(turn.turn_id)).state == TURN_STATE_RUNNING
    await held.complete_step("code_file:1", Findings(), finished_steps=1)
    await held.complete("1 file", finished_steps=2)
    assert (await user.ended(turn.turn_id)).outcome.state == TURN_STATE_COMPLETED


async def test_the_next_attempt_is_given_what_finished_steps_have_made(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    artifact = await written(held, "a.py", 1)
    await held.release()
    second = await stack.worker().claimed(stack.jobs.of(turn.turn_id)[0])
    plan, file = second.claim.steps
    assert (plan.step, plan.findings) == ("code_plan", PLAN)
    assert (file.step, list(file.artifacts)) == ("code_file:1", [artifact])
    assert second.claim.findings == PLAN
    other = await user.begin(turn.session_id, "Why?")
    told = (await stack.claim(other.turn_id)).claim.findings
    assert not told.HasField("manifest"), "no other turn is told of it"
    late = await held.complete_step("code_file:2", Findings(), artifacts=[artifact])
    assert late.status == (await held.put("b.py")).status == work.WRITE_STATUS_FENCED


async def test_what_was_finished_stays_when_a_code_turn_is_cancelled(any_stack: Stack) -> None:
    user, turn, held = await begun(any_stack)
    artifact = await written(held, "a.py", 1)
    begins = TurnFrame(file=TurnFile(path="b.py", index=2, total=2))
    await held.record_frames([begins, TurnFrame(delta=TurnDelta(text="half a fi"))])
    cancelled = await user.cancel(turn.turn_id)
    assert cancelled.outcome.state == TURN_STATE_CANCELLED
    assert list(cancelled.outcome.artifacts) == [artifact]
    assert cancelled.outcome.text == "", "half a file is no answer"
    assert (await held.put("b.py")).status == work.WRITE_STATUS_FENCED


async def test_attempts_are_counted_for_each_step(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    job = stack.jobs.of(turn.turn_id)[0]
    for _ in range(job.max_attempts - 1):
        assert not (await held.fail(retryable=True)).HasField("finished")
        held = await stack.worker().claimed(job)
    await written(held, "a.py", 1)
    for _ in range(job.max_attempts - 1):
        assert not (await held.fail(retryable=True)).HasField("finished")
        held = await stack.worker().claimed(job)
    spent = (await held.fail(retryable=True)).finished.outcome
    assert (spent.state, spent.attempts) == (TURN_STATE_FAILED, 2 * job.max_attempts - 1)
    assert [one.path for one in spent.artifacts] == ["a.py"]
    assert (await user.ended(turn.turn_id)).outcome == spent


async def test_a_worker_that_dies_after_a_finished_step_makes_nobody_suspect(
    short_leases: Stack,
) -> None:
    stack = short_leases
    _, turn, held = await begun(stack)
    await written(held, "a.py", 1)  # and then it is heard of no more
    second = await stack.claim(turn.turn_id, nth=2, queue="long")
    assert [step.step for step in second.claim.steps] == ["code_plan", "code_file:1"]
    # This one dies before it finishes anything: its job may be the reason.
    third = await stack.claim(turn.turn_id, queue="suspect")
    assert third.claim.attempt == 3


async def test_a_watcher_of_an_ended_code_turn_whose_log_is_gone_is_told_its_files(
    stack: Stack,
) -> None:
    user, turn, held = await begun(stack)
    artifact = await written(held, "b.py", 2)
    await held.complete("1 file")
    await stack.archived(turn.turn_id)
    await stack.redis.delete(keys.events_key(turn.turn_id))
    frames = await user.frames(turn.turn_id)
    assert kinds(frames) == ["snapshot", "outcome"]
    (file,) = frames[0].snapshot.files
    assert (file.path, file.index, file.total, file.artifact) == ("b.py", 2, 2, artifact)
    assert frames[0].snapshot.text == ""


async def test_a_gap_tells_of_finished_files_whose_frames_are_gone(any_stack: Stack) -> None:
    user, turn, held = await begun(any_stack)
    artifact = await written(held, "a.py", 1)
    begins = TurnFile(path="b.py", index=2, total=2)
    await held.record_frames([TurnFrame(file=begins), TurnFrame(delta=TurnDelta(text="half"))])
    await any_stack.redis.xtrim(keys.events_key(turn.turn_id), maxlen=2, approximate=False)
    stream = aiter(user.watch(turn.turn_id))
    gap = (await anext(stream)).frame.gap
    finished = TurnFile(path="a.py", index=1, total=2, artifact=artifact)
    assert (list(gap.files), gap.text) == ([finished, begins], "half")


async def test_a_code_turn_that_the_store_lost_is_told_its_steps_again(any_stack: Stack) -> None:
    user, turn, held = await begun(any_stack)
    artifact = await written(held, "a.py", 1)
    await any_stack.redis.flushdb()
    job = any_stack.jobs.of(turn.turn_id)[0]
    again = await any_stack.worker().claimed(job, held.claim_id)
    assert not again.claim.steps
    await again.complete_step("code_plan", PLAN)
    await again.complete_step("code_file:1", Findings(), artifacts=[artifact])
    await again.complete("1 file")
    await any_stack.archived(turn.turn_id)
    assert await user.artifacts(turn_id=turn.turn_id) == (["a.py"], "")
    assert (await user.artifact(artifact.artifact_id)).path == "a.py"


async def test_a_deleted_sessions_code_turn_is_gone_with_its_files(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    artifact = await written(held, "a.py", 1)
    await user.delete(turn.session_id)
    assert (await held.put("b.py")).status == work.WRITE_STATUS_MISSING
    late = await held.complete_step("code_file:2", Findings())
    assert late.status == work.WRITE_STATUS_MISSING
    assert (await stack.worker().claim(stack.jobs.of(turn.turn_id)[0])).HasField("gone")
    error = await failure(user.artifact(artifact.artifact_id))
    assert error.code() == grpc.StatusCode.NOT_FOUND


async def test_an_answer_of_one_agent_may_have_files_too(stack: Stack) -> None:
    user = stack.user()
    turn = await user.begin((await user.create()).session_id)
    held = await stack.claim(turn.turn_id)
    artifact = (await held.put("notes.md")).artifact
    await held.complete("See the notes.", artifacts=[artifact])
    assert list((await user.ended(turn.turn_id)).outcome.artifacts) == [artifact]
    await stack.archived(turn.turn_id)
    assert await user.artifacts(turn_id=turn.turn_id) == (["notes.md"], "")


async def test_code_may_be_asked_for_without_instructions(stack: Stack) -> None:
    _, turn, held = await begun(stack, "")
    assert turn.text == ""
    assert not held.claim.window
