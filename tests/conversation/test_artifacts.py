"""The files of a code turn, from the backend to a folder, and gone with their session."""

import hashlib
from pathlib import Path

import pytest

from maieutic_client import Maieutic, NotFound
from tests.conversation.backend import Backend
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE = 30.0


async def test_files_are_saved_before_and_after_they_are_archived_and_go_with_their_session(
    shared: Backend, client: Maieutic, tmp_path: Path
) -> None:
    session = await client.sessions.create()
    stream = client.turns.generate_code(session, "Keep it small.", timeout=PATIENCE)
    made = list((await stream.result()).artifacts)
    assert made
    turn_id = stream.turn_id
    before = [one async for one in client.artifacts.list(turn_id=turn_id)]
    saved = [one async for one in client.artifacts.save(turn_id, tmp_path / "out")]
    assert sorted(one.path for one in before) == sorted(one.path for one in made)
    for one in saved:
        content = one.path.read_bytes()
        assert one.path == tmp_path / "out" / one.artifact.path
        assert hashlib.sha256(content).hexdigest() == one.artifact.sha256

    async def archived() -> bool:
        return (await client.turns.get(turn_id)).HasField("archive_time")

    await wait_until(archived, PATIENCE)
    assert [one async for one in client.artifacts.list(turn_id=turn_id)] == before
    assert [one async for one in client.artifacts.list(session, page_size=1)] == before

    first = made[0].artifact_id
    async with Maieutic.connect(shared.address, api_key=shared.stranger_key) as stranger:
        with pytest.raises(NotFound):
            await stranger.artifacts.download(first)
    await client.sessions.delete(session)
    for call in (client.artifacts.get(first), client.artifacts.download(first)):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        _ = [one async for one in client.artifacts.list(session)]
