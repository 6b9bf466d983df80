"""Files that somebody else has named are written under a folder, and nowhere else."""

import os
from pathlib import Path

import pytest

from maieutic_client import UnsafePath
from maieutic_client.safe_files import check_paths, write_under
from tests.hostile_paths import GOOD_PATHS, HOSTILE_PATHS


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_plain_relative_paths_are_taken(path: str) -> None:
    check_paths([path])


@pytest.mark.parametrize("path", [*HOSTILE_PATHS, "\ud800"], ids=ascii)
def test_hostile_paths_are_refused_before_anything_is_touched(path: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafePath):
        write_under(tmp_path / "out", path, b"x", overwrite=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("a.py", "A.py"), ("straße", "STRASSE"), ("src", "SRC/x"), ("a/b/c", "A")]
)
def test_paths_that_would_be_one_file_or_a_folder_too_are_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(UnsafePath):
        check_paths(["other", *paths])


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "src").symlink_to(outside)
    (out / "ok").mkdir()
    (out / "ok" / "deep").symlink_to("../../outside")
    for path in ("src/a.py", "ok/deep/a.py", "ok/deep/more/a.py"):
        with pytest.raises(UnsafePath, match="link"):
            write_under(out, path, b"x", overwrite=True)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_link_to_a_file_is_neither_followed_nor_replaced(
    tmp_path: Path, *, overwrite: bool
) -> None:
    out, secret = tmp_path / "out", tmp_path / "secret"
    out.mkdir()
    secret.write_text("mine")
    (out / "a.py").symlink_to(secret)
    (out / "dangling.py").symlink_to(tmp_path / "nowhere")
    for path in ("a.py", "dangling.py"):
        with pytest.raises(UnsafePath, match="link"):
            write_under(out, path, b"x", overwrite=overwrite)
    assert secret.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    for path in ("folder", "pipe", "file/below"):
        with pytest.raises(UnsafePath):
            write_under(tmp_path, path, b"x", overwrite=True)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_under(tmp_path / "link", "a/b", b"x", overwrite=False)
    assert (tmp_path / "real" / "a" / "b").read_bytes() == b"x"


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("mine")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_under(tmp_path, "a", b"new", overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "mine"
