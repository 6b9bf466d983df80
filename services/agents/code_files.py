"""Which files a code turn may write, and what they are. Pure."""

import posixpath
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from services.runtime.file_paths import path_collision, path_problem

MOST_FILES = 40
MOST_FILE_BYTES = 256 * 1024
MOST_TURN_BYTES = 4 * 1024 * 1024
PROBLEMS_TOLD = 5
PATH_CHARACTERS_TOLD = 200

_MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".css": "text/css",
        ".csv": "text/csv",
        ".html": "text/html",
        ".js": "text/javascript",
        ".json": "application/json",
        ".md": "text/markdown",
        ".py": "text/x-python",
        ".toml": "application/toml",
        ".xml": "application/xml",
        ".yaml": "application/yaml",
        ".yml": "application/yaml",
    }
)


def media_type(path: str) -> str:
    """Return the type of a file's text, by its name."""
    return _MEDIA_TYPES.get(posixpath.splitext(path)[1].lower(), "text/plain")


def problem_of_plan(paths: Sequence[str]) -> str:
    """Return why these files cannot be written, for the model to read; empty if they can."""
    if not 1 <= len(paths) <= MOST_FILES:
        return f"there are {len(paths)} files, and there must be 1 to {MOST_FILES}"
    problems = [
        f"the path {path[:PATH_CHARACTERS_TOLD]!r} {problem}"
        for place, path in enumerate(paths)
        if (problem := path_problem(path) or _problem_beside(path, paths[:place]))
    ]
    return "; ".join(problems[:PROBLEMS_TOLD])


def _problem_beside(path: str, earlier: Sequence[str]) -> str:
    """Return why there cannot be two such files, where case makes no difference."""
    if path in earlier:
        return "is there twice"
    other = path_collision(path, earlier)
    return f"cannot stand beside {other!r}" if other else ""
