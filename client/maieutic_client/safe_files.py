"""Writing files that somebody else has named: under a folder, and nowhere else.

A path is checked again here, whatever the server has done, and no link under the folder is
followed.
"""

import errno
import os
import stat
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from maieutic_client.errors import MaieuticError

MOST_BYTES = 255
MOST_PARTS = 16
FORBIDDEN = frozenset('\\:*?"<>|')
RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"}
)
"""Devices on Windows, whatever their extension."""
HOOKED = frozenset({".git", "git~1", ".hg", ".svn"})
"""Folders in which a file makes a tool run it."""
_NO_FOLDER = (errno.ELOOP, errno.ENOTDIR)


class UnsafePath(MaieuticError):
    """A path that must not be written to, or that only links lead to."""


def check_paths(paths: Sequence[str]) -> None:
    """Raise UnsafePath unless all may be written under one folder, on every file system in use."""
    for path in paths:
        if not _is_safe(path):
            raise UnsafePath(f"the path {path!a} is not safe to write to")
    taken: dict[str, str] = {}
    for path in paths:
        if other := taken.get(_key(path)):
            raise UnsafePath(f"the paths {path} and {other} would be one file")
        taken[_key(path)] = path
    for path in paths:
        if other := next((taken[one] for one in _folders(_key(path)) if one in taken), ""):
            raise UnsafePath(f"the path {other} would be a file and a folder")


def _is_safe(path: str) -> bool:
    unseen = any(unicodedata.category(one)[0] == "C" or one in "\u2028\u2029" for one in path)
    # Before the bytes are counted: a lone surrogate has none.
    if unseen or FORBIDDEN & set(path) or not unicodedata.is_normalized("NFC", path):
        return False
    parts = path.split("/")
    short = len(path.encode()) <= MOST_BYTES and len(parts) <= MOST_PARTS
    return short and all(_is_safe_part(part) for part in parts)


def _is_safe_part(part: str) -> bool:
    name = part.casefold()
    plain = bool(part) and part == part.strip() and not part.endswith(".")
    return plain and name.partition(".")[0].rstrip() not in RESERVED and name not in HOOKED


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


def _folders(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts)))


def write_under(folder: Path, path: str, content: bytes, *, overwrite: bool) -> Path:
    """Write a file whole or not at all, and return where; *folder* itself may be a link.

    One that has this content is left as it is. Raises UnsafePath, also for what is under the folder
    and is a link, and OSError: FileExistsError for other content, unless *overwrite*.
    """
    check_paths([path])
    *folders, name = path.split("/")
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder, folders) as inside:
        held = _content(inside, name, most=len(content) + 1)
        if held is not None and held != content and not overwrite:
            raise FileExistsError(f"{folder / path} is there, with other content")
        if held != content:
            _replace(inside, name, content)
    return folder / path


@contextmanager
def _opened(folder: Path, folders: Sequence[str]) -> Iterator[int]:
    """Open a folder further down, making what is missing; each step is one name, never a link."""
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in folders:
            before, inside = inside, _step(inside, name)
            os.close(before)
        yield inside
    finally:
        os.close(inside)


def _step(inside: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=inside)
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inside)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            raise UnsafePath(f"{name} is a link or a file, where a folder has to be") from error
        raise


def _content(inside: int, name: str, *, most: int) -> bytes | None:
    """Return a file's first bytes, None if there is none."""
    try:
        # Without waiting: it may be a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=inside)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafePath(f"{name} is a link, where a file has to be") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafePath(f"{name} is there, and is no file")
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most)


def _replace(inside: int, name: str, content: bytes) -> None:
    """Put a whole file in the place of whatever has the name."""
    beginning = f".{uuid.uuid4().hex}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(beginning, flags, 0o666, dir_fd=inside), "wb") as file:
            file.write(content)
        os.replace(beginning, name, src_dir_fd=inside, dst_dir_fd=inside)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beginning, dir_fd=inside)
        raise
