"""Code from what was settled in a conversation."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.turn_service_pb2 import TURN_KIND_CODE, TURN_STATE_COMPLETED, TURN_STATE_FAILED
from maieutic_client import Maieutic
from maieutic_client.cli import main
from tests.conversation.backend import Backend
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE = 30.0


async def test_what_was_settled_becomes_files_that_are_streamed_one_by_one(
    client: Maieutic,
) -> None:
    session = await client.sessions.create(mode=SESSION_MODE_SOCRATIC)
    await client.turns.stream(session, "It must run on SQLite.", timeout=PATIENCE).result()

    async def understood() -> bool:
        return bool([one async for one in client.specifications.list(session)])

    await wait_until(understood, PATIENCE)
    texts: dict[str, str] = {}
    stream = client.turns.generate_code(session, "Keep it small.", timeout=PATIENCE)
    async for _ in stream:
        for file in stream.files.values():
            if not file.HasField("artifact"):
                texts[file.path] = stream.text
    outcome = await stream.result()
    assert outcome.state == TURN_STATE_COMPLETED
    assert [file.path for file in stream.files.values()] == list(texts)
    assert {one.path: one.size_bytes for one in outcome.artifacts} == {
        path: len(text.encode()) for path, text in texts.items()
    }
    assert "It must run on SQLite." in texts["specifications.json"]
    assert "Keep it small." in texts["README.md"]
    assert [file.path for file in outcome.findings.manifest.files] == list(texts)
    turn = await client.turns.get(stream.turn_id)
    assert (turn.kind, turn.text) == (TURN_KIND_CODE, "Keep it small.")
    watched = client.turns.watch(stream.turn_id, timeout=PATIENCE)
    assert await watched.result() == outcome
    assert [one.artifact for one in watched.files.values()] == list(outcome.artifacts)


async def test_where_nothing_was_settled_the_turn_says_what_to_do(client: Maieutic) -> None:
    session = await client.sessions.create()
    outcome = await client.turns.generate_code(session, timeout=PATIENCE).result()
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "NO_SPECIFICATIONS")
    assert "Socratic" in outcome.explanation


async def command(shared: Backend, *arguments: str) -> Result:
    """Run the command line in a thread of this process."""
    environ = {"MAIEUTIC_ADDRESS": shared.address, "MAIEUTIC_API_KEY": shared.api_key}
    runner = CliRunner(env=environ)
    return await asyncio.to_thread(runner.invoke, main, ["code", *arguments])


async def test_the_command_tells_of_each_file_and_writes_them_into_a_folder(
    client: Maieutic, shared: Backend, tmp_path: Path
) -> None:
    session = (await client.sessions.create()).session_id
    folder = tmp_path / "library"
    ended = await command(shared, session, "A library.", "--into", str(folder))
    assert ended.exit_code == 0, ended.stderr
    written = sorted(path.name for path in folder.iterdir())
    assert written == ["README.md", "specifications.json", "specifications.py"]
    for place, name in enumerate(("README.md", "specifications.json", "specifications.py"), 1):
        assert f"writing {name} ({place} of 3)" in ended.stderr
        assert f"finished {name} ({place} of 3)" in ended.stderr
    assert "> A library." in (folder / "README.md").read_text(encoding="utf-8")
    assert "Assumed:" in ended.stdout
    # Other content is left alone, unless it is to be replaced.
    (folder / "README.md").write_text("mine")
    again = await command(shared, session, "A shop.", "--into", str(folder))
    assert (again.exit_code, (folder / "README.md").read_text()) == (1, "mine")
    assert "--overwrite" in again.stderr


async def test_the_command_says_why_nothing_was_written(client: Maieutic, shared: Backend) -> None:
    session = (await client.sessions.create()).session_id
    ended = await command(shared, session)
    assert ended.exit_code == 1
    assert "NO_SPECIFICATIONS" in ended.stderr
