"""Which paths files may have that a model has named."""

import pytest

from services.runtime.file_paths import path_collision, path_problem
from tests.hostile_paths import GOOD_PATHS, HOSTILE_PATHS


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_plain_relative_paths_are_taken(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=ascii)
def test_what_some_file_system_takes_for_something_else_is_refused(path: str) -> None:
    assert path_problem(path)


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("a.py", "A.py"),
        ("straße", "STRASSE"),
        ("é", "É"),
        ("src", "src/main.py"),
        ("SRC/main.py/x", "src/Main.py"),
    ],
)
def test_files_that_would_be_one_or_a_folder_too_collide(path: str, other: str) -> None:
    assert path_collision(path, ["b", other]) == other
    assert path_collision(other, [path]) == path


def test_a_path_does_not_collide_with_itself_and_its_neighbours() -> None:
    assert path_collision("src/a.py", ["src/a.py", "src/a.pyi", "src2", "source/a.py"]) is None
