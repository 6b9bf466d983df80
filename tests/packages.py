"""Packages as pip leaves them, for tests of entry points."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "acme"


def install_example(folder: Path) -> None:
    """Install the package that docs/extending.md explains, as its users do, into *folder*."""
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target")
    command = [sys.executable, "-m", "pip", "install", *options, str(folder), str(EXAMPLE)]
    subprocess.run(command, check=True, timeout=60)  # noqa: S603 - our own arguments


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let what is installed in *folder* be found during the block."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(folder) in (getattr(sys.modules[name], "__file__", None) or ""):
                del sys.modules[name]


def write_package(
    folder: Path, name: str, source: str, entries: Mapping[str, Mapping[str, str]]
) -> None:
    """Write a package of one module *name*; *entries* are group to entry point to object."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, points in entries.items()
        for line in (f"[{group}]", *(f"{entry} = {value}" for entry, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
