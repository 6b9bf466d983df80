"""Which paths a file that a model has named may have: safe on every file system in use."""

import unicodedata
from collections.abc import Iterable

MOST_BYTES = 255
MOST_PARTS = 16
FORBIDDEN = frozenset('\\:*?"<>|')
"""Separators, drives, streams and patterns, on Windows."""
RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"}
)
"""Devices on Windows, whatever their extension."""
HOOKED = frozenset({".git", "git~1", ".hg", ".svn"})
"""Folders in which a file makes a tool run it."""


def path_problem(path: str) -> str | None:
    """Return what is wrong with a relative path, with / between its parts, and how to mend it."""
    if not 0 < len(path.encode()) <= MOST_BYTES:
        return f"must have 1 to {MOST_BYTES} bytes in UTF-8"
    if any(unicodedata.category(one)[0] == "C" or one in "\u2028\u2029" for one in path):
        return "must not have control or invisible characters"
    if FORBIDDEN & set(path):
        return f"must not have any of {' '.join(sorted(FORBIDDEN))}"
    if not unicodedata.is_normalized("NFC", path):
        return "must be in Unicode's normal form NFC"
    parts = path.split("/")
    if len(parts) > MOST_PARTS:
        return f"must have at most {MOST_PARTS} parts"
    return next((problem for part in parts if (problem := _part_problem(part))), None)


def _part_problem(part: str) -> str | None:
    if not part:
        return "must be relative, without an empty part: src/main.py"
    if part in {".", ".."}:
        return f"must not have the part {part}"
    if part != part.strip() or part.endswith("."):
        return f"must not have a part that begins or ends with a space, or ends with a dot: {part}"
    name = part.casefold()
    if name.partition(".")[0].rstrip() in RESERVED or name in HOOKED:
        return f"must not have the reserved name {part}"
    return None


def path_collision(path: str, others: Iterable[str]) -> str | None:
    """Return which of *others* cannot stand beside a path where case makes no difference."""
    key = _key(path)
    for other in others:
        shorter, longer = sorted((key, _key(other)), key=len)
        if path != other and (shorter == longer or longer.startswith(f"{shorter}/")):
            return other
    return None


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())
