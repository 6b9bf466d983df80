"""The files that agents have made, from behind a gateway to a folder of the caller's."""

from pathlib import Path

import pytest

from maieutic_client import (
    DataLoss,
    InvalidArgument,
    Maieutic,
    NotFound,
    RetryPolicy,
    Unavailable,
    UnsafePath,
)
from tests.fakes.gateway import Stack

TURN = "t" * 48
CONTENT = bytes(range(256)) * 20


async def saved(client: Maieutic, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Save the turn's files and return where they are."""
    return [
        str(one.path.relative_to(folder))
        async for one in client.artifacts.save(TURN, folder, overwrite=overwrite)
    ]


async def test_files_are_listed_and_read(stack: Stack, client: Maieutic) -> None:
    files = [stack.shelf.put(path, b"x") for path in ("a", "b", "c")]
    other = stack.shelf.put("d", b"x", turn="u", session="v")
    assert [one async for one in client.artifacts.list("s" * 48, page_size=2)] == files
    assert [one async for one in client.artifacts.list(turn_id="u" * 48)] == [other]
    assert await client.artifacts.get(other.artifact_id) == other


async def test_a_file_is_downloaded_and_checked(stack: Stack, client: Maieutic) -> None:
    artifact = stack.shelf.put("a.bin", CONTENT)
    assert await client.artifacts.download(artifact.artifact_id) == CONTENT
    empty = stack.shelf.put("empty", b"")
    assert await client.artifacts.download(empty.artifact_id) == b""


async def test_a_download_goes_on_where_the_link_was_lost(stack: Stack, client: Maieutic) -> None:
    artifact = stack.shelf.put("a.bin", CONTENT)
    stack.shelf.breaks = 3
    assert await client.artifacts.download(artifact.artifact_id) == CONTENT
    assert stack.shelf.breaks == 0


async def test_a_download_is_given_up_after_its_time(stack: Stack) -> None:
    artifact = stack.shelf.put("a.bin", CONTENT)
    stack.shelf.breaks = 3
    at_once = RetryPolicy(give_up_after=0.0)
    async with Maieutic.connect(stack.address, api_key=stack.key, retry=at_once) as hasty:
        with pytest.raises(Unavailable):
            await hasty.artifacts.download(artifact.artifact_id)


async def test_damaged_bytes_are_told_and_never_written(
    stack: Stack, client: Maieutic, tmp_path: Path
) -> None:
    artifact = stack.shelf.put("a.bin", CONTENT)
    stack.shelf.damaged = True
    with pytest.raises(DataLoss, match="download it again") as raised:
        await client.artifacts.download(artifact.artifact_id)
    assert raised.value.reason == "ARTIFACT_DAMAGED"
    with pytest.raises(DataLoss):
        await saved(client, tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_the_files_of_a_turn_are_saved_under_a_folder(
    stack: Stack, client: Maieutic, tmp_path: Path
) -> None:
    for path in ("main.py", "src/deep/a.py", "src/deep/b.py"):
        stack.shelf.put(path, path.encode())
    stack.shelf.put("other.py", b"", turn="u")
    out = tmp_path / "new" / "out"
    assert await saved(client, out) == ["main.py", "src/deep/a.py", "src/deep/b.py"]
    found = {str(p.relative_to(out)): p.read_text() for p in out.rglob("*") if p.is_file()}
    assert found == {path: path for path in ("main.py", "src/deep/a.py", "src/deep/b.py")}
    assert await saved(client, out)  # again: all is there


async def test_a_file_with_other_content_is_replaced_only_if_that_is_asked_for(
    stack: Stack, client: Maieutic, tmp_path: Path
) -> None:
    stack.shelf.put("a.py", b"new")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.py").write_text("mine")
    with pytest.raises(FileExistsError):
        await saved(client, out)
    assert (out / "a.py").read_text() == "mine"
    await saved(client, out, overwrite=True)
    assert [(one.name, one.read_text()) for one in out.iterdir()] == [("a.py", "new")]


async def test_a_hostile_path_is_written_nowhere_nor_anything_beside_it(
    stack: Stack, client: Maieutic, tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    for path in ("../x", f"{tmp_path}/x", ".git/hooks/post-checkout", "HARMLESS"):
        stack.shelf.files.clear()
        stack.shelf.put("harmless", b"x")
        stack.shelf.put(path, b"x")
        with pytest.raises(UnsafePath):
            await saved(client, tmp_path / "out")
    assert set(tmp_path.rglob("*")) == before


async def test_a_wrong_id_is_named_with_what_to_do(client: Maieutic) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await client.artifacts.get("../x")
    (violation,) = raised.value.violations
    assert violation.field == "artifact_id"
    assert "ListArtifacts" in violation.description
    with pytest.raises(InvalidArgument):
        await client.artifacts.download("x")
    with pytest.raises(InvalidArgument) as raised:
        _ = [one async for one in client.artifacts.list("short", turn_id="also")]
    assert [one.field for one in raised.value.violations] == ["session_id", "turn_id"]


async def test_the_files_of_others_do_not_exist(stack: Stack) -> None:
    artifact = stack.shelf.put("a", b"x")
    async with Maieutic.connect(stack.address, api_key=stack.stranger_key) as stranger:
        with pytest.raises(NotFound):
            await stranger.artifacts.get(artifact.artifact_id)
        with pytest.raises(NotFound):
            await stranger.artifacts.download(artifact.artifact_id)
