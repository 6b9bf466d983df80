"""Code from what was settled in a conversation."""

import pytest

from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.turn_service_pb2 import TURN_KIND_CODE, TURN_STATE_COMPLETED, TURN_STATE_FAILED
from maieutic_client import Maieutic
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
