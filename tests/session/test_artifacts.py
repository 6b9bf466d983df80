"""Files of turns: put by the worker that holds the turn, given to whoever the turn is for."""

import grpc
import pytest

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.turn_service_pb2 import TURN_STATE_ROLLED_BACK, Turn
from services.session.model import Draft
from services.session.ports import Reads
from tests.session.stack import Held, Stack, User, bad_field, failure, reason, retry_after
from tests.session.stored import opened

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def begun(stack: Stack) -> tuple[User, Turn, Held]:
    """Return a user's turn in the hands of a worker."""
    user = stack.user()
    turn = await user.begin((await user.create()).session_id)
    return user, turn, await stack.claim(turn.turn_id)


async def archived(stack: Stack, held: Held, *named: Artifact, rolled_back: bool = False) -> None:
    """End the turn with an outcome that names these, and have it archived."""
    finished = (await held.complete("done", publish=False)).finished
    finished.outcome.artifacts.extend(named)
    if rolled_back:
        finished.outcome.state = TURN_STATE_ROLLED_BACK
    await stack.archiver.publish(stack.bus, finished)
    await stack.archived(held.turn_id)


async def test_a_file_of_a_turn_is_downloaded_in_parts(any_stack: Stack) -> None:
    user, turn, held = await begun(any_stack)
    content = bytes(range(256)) * 1024
    put = await held.put("src/main.py", content)
    assert put.status == work.WRITE_STATUS_APPLIED
    assert (put.artifact.turn_id, put.artifact.session_id) == (turn.turn_id, turn.session_id)
    assert await held.put("src/main.py", content) == put
    # By its id it is there before the turn has ended: a frame has told it.
    first, *parts = [response async for response in user.download(put.artifact.artifact_id)]
    assert first.artifact == put.artifact
    assert b"".join(part.chunk for part in parts) == content
    assert {len(part.chunk) for part in parts} == {64 * 1024}
    assert await user.artifact(put.artifact.artifact_id) == put.artifact
    assert await user.artifacts(turn_id=turn.turn_id) == ([], "")


async def test_an_empty_file_is_a_file(stack: Stack) -> None:
    user, _, held = await begun(stack)
    put = await held.put("src/__init__.py", b"")
    (only,) = [response async for response in user.download(put.artifact.artifact_id)]
    assert only.artifact.size_bytes == 0


async def test_of_a_turn_that_has_ended_there_is_what_its_outcome_names(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    named = [(await held.put(path)).artifact for path in ("a", "b")]
    dropped = (await held.put("draft")).artifact
    await archived(stack, held, *named)
    for listed in (
        await user.artifacts(turn_id=turn.turn_id),
        await user.artifacts(session_id=turn.session_id),
        await user.artifacts(turn_id=turn.turn_id, session_id=turn.session_id),
    ):
        assert (sorted(listed[0]), listed[1]) == (["a", "b"], "")
    assert await user.artifact(named[0].artifact_id) == named[0]
    for call in (user.artifact(dropped.artifact_id), user.download(dropped.artifact_id)):
        assert (await failure(call)).code() is NOT_FOUND


async def test_what_an_outcome_names_is_there_before_the_archive_has_heard_of_it(
    stack: Stack, store_url: str
) -> None:
    user, turn, held = await begun(stack)
    named, dropped = (await held.put("a")).artifact, (await held.put("draft")).artifact

    def name(draft: Draft) -> None:
        record = draft.turns[turn.turn_id]
        record.finished.outcome.artifacts.append(named)
        draft.put_turn(record)

    with stack.archiver.paused():
        finished = (await held.complete("done", publish=False)).finished
        async with opened(store_url) as store:
            await store.transact(turn.session_id, name, Reads(turns=[turn.turn_id]))
        assert await user.artifacts(turn_id=turn.turn_id) == (["a"], "")
        assert await user.artifacts(session_id=turn.session_id) == (["a"], "")
        assert await user.artifact(named.artifact_id) == named
        assert (await failure(user.artifact(dropped.artifact_id))).code() is NOT_FOUND
        # The archive has it, and the live store does not know that yet: it is listed once.
        finished.outcome.artifacts.append(named)
        stack.archive.keep(finished)
        assert await user.artifacts(session_id=turn.session_id) == (["a"], "")


async def test_a_turn_that_was_rolled_back_has_no_files(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    artifact = (await held.put("a")).artifact
    await archived(stack, held, artifact, rolled_back=True)
    assert await user.artifacts(turn_id=turn.turn_id) == ([], "")
    assert (await failure(user.artifact(artifact.artifact_id))).code() is NOT_FOUND


async def test_files_are_listed_page_by_page(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    files = [(await held.put(path)).artifact for path in ("a", "b", "c")]
    await archived(stack, held, *files)
    for session_id, turn_id in (("", turn.turn_id), (turn.session_id, "")):
        first, token = await user.artifacts(2, session_id=session_id, turn_id=turn_id)
        second, end = await user.artifacts(2, token, session_id=session_id, turn_id=turn_id)
        assert sorted(first + second) == ["a", "b", "c"]
        assert (second, end) == (["c"], "")


async def test_the_files_of_others_do_not_exist(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    artifact = (await held.put("a")).artifact
    await archived(stack, held, artifact)
    for stranger in (stack.user(), stack.user(tenant=user.tenant), stack.user(name=user.name)):
        for call in (
            stranger.artifact(artifact.artifact_id),
            stranger.download(artifact.artifact_id),
            stranger.artifacts(turn_id=turn.turn_id),
            stranger.artifacts(session_id=turn.session_id),
        ):
            assert (await failure(call)).code() is NOT_FOUND
    unknown = await failure(user.artifact("a" * 48))
    foreign = await failure(stack.user().artifact(artifact.artifact_id))
    assert reason(unknown) == reason(foreign) == "ARTIFACT_NOT_FOUND"


async def test_a_turn_of_another_session_is_not_one_of_this(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    await archived(stack, held, (await held.put("a")).artifact)
    other = (await user.create()).session_id
    call = user.artifacts(turn_id=turn.turn_id, session_id=other)
    assert (await failure(call)).code() is NOT_FOUND


async def test_files_are_gone_at_once_with_their_session(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    artifact = (await held.put("a")).artifact
    await archived(stack, held, artifact)
    with stack.archiver.paused():
        await user.delete(turn.session_id)
        for call in (
            user.artifact(artifact.artifact_id),
            user.artifacts(turn_id=turn.turn_id),
            user.artifacts(session_id=turn.session_id),
        ):
            assert (await failure(call)).code() is NOT_FOUND


async def test_whoever_holds_the_turn_no_more_puts_nothing(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    assert (await held.put("a", claim_id="another")).status == work.WRITE_STATUS_FENCED
    assert (await held.put("a", fence=held.claim.fence + 1)).status == work.WRITE_STATUS_FENCED
    assert (await held.put("a", turn_id="b" * 48)).status == work.WRITE_STATUS_MISSING
    await user.cancel(turn.turn_id)
    assert (await held.put("a")).status == work.WRITE_STATUS_FENCED
    assert not stack.archive.artifacts.files


async def test_a_turn_that_has_ended_takes_no_more_from_its_own_worker(stack: Stack) -> None:
    _, _, held = await begun(stack)
    await held.complete("done")
    assert (await held.put("late")).status == work.WRITE_STATUS_FENCED


async def test_a_path_or_a_file_too_many_is_refused_by_name(stack: Stack) -> None:
    _, _, held = await begun(stack)
    error = await failure(held.put("../etc/passwd"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad_field(error) == "path"
    for path in ("a", "b", "c"):
        await held.put(path)
    error = await failure(held.put("d"))
    assert (error.code(), reason(error)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "LIMIT_REACHED",
    )


async def test_while_the_archive_is_away_files_are_asked_for_again(stack: Stack) -> None:
    user, turn, held = await begun(stack)
    artifact = (await held.put("a")).artifact
    await archived(stack, held, artifact)
    stack.archive.artifacts.away = True
    for call in (
        user.artifact(artifact.artifact_id),
        user.download(artifact.artifact_id),
        user.artifacts(session_id=turn.session_id),
    ):
        error = await failure(call)
        assert (error.code(), retry_after(error)) == (grpc.StatusCode.UNAVAILABLE, 1.0)


@pytest.mark.parametrize("token", ["x", "1", "1.", "1.a.u", "-1.a.o"])
async def test_a_token_that_no_answer_gave_is_refused(stack: Stack, token: str) -> None:
    user = stack.user()
    error = await failure(user.artifacts(1, token, session_id="a" * 48))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_to_list_has_to_be_said(stack: Stack) -> None:
    error = await failure(stack.user().artifacts())
    assert bad_field(error) == "session_id"


async def test_only_workers_put_files(stack: Stack) -> None:
    request = work.PutTurnArtifactRequest(turn_id="a" * 48)
    with stack.user().acting() as replica:
        error = await failure(replica.gateway_work.PutTurnArtifact(request))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
