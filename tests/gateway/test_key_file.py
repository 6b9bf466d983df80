"""API keys in a file: only hashes are kept, changes count, mistakes lock nobody out."""

import json
import logging
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from services.gateway.adapters.key_file import BadKeyFile, KeyFile, add_key, ensure_key, read_keys
from services.gateway.main import ADMIN
from services.gateway.model import KeyHolder
from tests.waiting import wait_until

ANN = KeyHolder(tenant="acme", user="ann")
BACKEND = KeyHolder(tenant="acme", user="backend", may_act_for_users=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "api-keys.jsonl"


async def test_a_key_is_known_to_be_its_holders(path: Path) -> None:
    key, other = add_key(path, ANN), add_key(path, BACKEND)
    keys = await KeyFile.open(path)
    assert await keys.holder(key) == ANN
    assert await keys.holder(other) == BACKEND


@pytest.mark.parametrize("wrong", ["", "mk_", "mk_wrong", "é" * 50, "\udcff"])
async def test_an_unknown_key_has_no_holder(path: Path, wrong: str) -> None:
    key = add_key(path, ANN)
    keys = await KeyFile.open(path)
    assert await keys.holder(wrong) is None
    assert await keys.holder(key[:-1]) is None
    assert await keys.holder(key + "x") is None


async def test_the_file_tells_no_key_and_is_its_owners_alone(path: Path) -> None:
    key = add_key(path, ANN)
    assert key.startswith("mk_")
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_a_key_that_is_added_or_withdrawn_counts_without_a_restart(path: Path) -> None:
    keys = await KeyFile.open(path, check_every=0.0)
    key = add_key(path, ANN)
    assert await keys.holder(key) == ANN
    path.write_text("")
    assert await keys.holder(key) is None


async def test_the_file_is_looked_at_again_after_a_while_only(path: Path) -> None:
    key = add_key(path, ANN)
    rarely, often = [await KeyFile.open(path, check_every=wait) for wait in (3600.0, 0.05)]
    for keys in (rarely, often):
        assert await keys.holder(key) == ANN
    path.unlink()

    async def withdrawn() -> bool:
        return await often.holder(key) is None

    await wait_until(withdrawn)
    assert await rarely.holder(key) == ANN


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "{}",
        '{"sha256": "abc", "tenant": "t", "user": "u"}',
        json.dumps({"sha256": "0" * 64, "tenant": "", "user": "u"}),
    ],
)
async def test_a_wrong_line_is_named_and_leaves_the_keys_as_they_were(
    path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = add_key(path, ANN)
    keys = await KeyFile.open(path, check_every=0.0)
    with path.open("a") as file:
        file.write(f"\n{line}\n")
    with caplog.at_level(logging.ERROR):
        assert await keys.holder(key) == ANN
    assert "line 3" in caplog.text

    with pytest.raises(BadKeyFile, match="line 3"):
        await KeyFile.open(path)
    with pytest.raises(BadKeyFile, match="line 3"):
        add_key(path, BACKEND)


def test_only_a_plain_true_lets_a_key_act_for_users(path: Path) -> None:
    add_key(path, BACKEND)
    path.write_text(path.read_text().replace("true", '"yes"'))
    (holder,) = read_keys(path).values()
    assert not holder.may_act_for_users


async def test_the_first_key_is_made_once_and_stays(path: Path) -> None:
    key_file = path.with_name("api.key")
    key = ensure_key(path, key_file, BACKEND)
    assert ensure_key(path, key_file, BACKEND) == key
    assert key_file.read_text().strip() == key
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert list(read_keys(path).values()) == [BACKEND]


async def test_a_first_key_that_was_put_there_is_taken(path: Path) -> None:
    key_file = path.with_name("api.key")
    key_file.parent.mkdir()
    key_file.write_text("mk_from_a_secret\n")
    assert ensure_key(path, key_file, BACKEND) == "mk_from_a_secret"
    assert await (await KeyFile.open(path)).holder("mk_from_a_secret") == BACKEND


def test_an_empty_key_file_is_no_key(path: Path) -> None:
    key_file = path.with_name("api.key")
    key_file.parent.mkdir()
    key_file.touch()
    with pytest.raises(BadKeyFile, match="is empty"):
        ensure_key(path, key_file, BACKEND)


async def test_the_first_key_of_an_older_version_becomes_an_admins(
    path: Path, tmp_path: Path
) -> None:
    key = ensure_key(path, tmp_path / "admin", ADMIN)
    (entry,) = map(json.loads, path.read_text().splitlines())
    del entry["admin"]
    path.write_text(json.dumps(entry))
    keys = await KeyFile.open(path, check_every=0.0)
    assert await keys.holder(key) == replace(ADMIN, admin=False)
    assert ensure_key(path, tmp_path / "admin", ADMIN) == key
    assert await keys.holder(key) == ADMIN
