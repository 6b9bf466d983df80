#!/usr/bin/env python3
"""Write docs/configuration.md from the services' settings classes; --check only compares.

Run from the checkout with its own Python: .venv/bin/python scripts/configuration_doc.py
"""

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from services.embedded import EmbeddedSettings
from services.runtime.settings import describe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"
INTRODUCTION = """\
# Configuration

Every service reads its settings from environment variables, once, when it starts; a variable that
is wrong or missing is named in the error. Any `NAME` may come from a file instead, as a mounted
secret does: `NAME_FILE` gives the path. Durations are in seconds. Lists and mappings are written
as JSON.

This page is generated from the settings classes by `scripts/configuration_doc.py`.
"""


def main() -> None:
    """Write the page, or with --check exit with 1 if it is not up to date."""
    parser = argparse.ArgumentParser(description="Write docs/configuration.md.")
    parser.add_argument("--check", action="store_true", help="only compare; fail if it differs")
    page = "\n".join([INTRODUCTION, *sections()])
    if parser.parse_args().check:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if current != page:
            sys.exit(
                f"{PAGE.relative_to(ROOT)} is not up to date: run scripts/{Path(__file__).name}"
            )
        return
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")


def sections() -> Iterator[str]:
    """Return a section for the embedded mode, then one for each service by name."""
    yield section("embedded", EmbeddedSettings)
    for file in sorted((ROOT / "services").glob("*/settings.py")):
        service = file.parent.name
        if service == "runtime":  # reads settings, has none
            continue
        yield section(service, settings_class(service))


def settings_class(service: str) -> type:
    """Return the service's outermost settings: <Service>Settings."""
    module = importlib.import_module(f"services.{service}.settings")
    found = getattr(module, f"{service.capitalize()}Settings", None)
    if not dataclasses.is_dataclass(found) or not isinstance(found, type):
        sys.exit(f"services/{service}/settings.py has no {service.capitalize()}Settings")
    return found


def section(service: str, settings: type) -> str:
    """Return the service's heading, its summary and the table of its variables."""
    rows = [
        f"| `{row.name}` | {_cell(row.type)} | {_code(row.default)} | {_cell(row.help)} |"
        for row in describe(settings)
    ]
    summary = (settings.__doc__ or "").partition("\n")[0]
    head = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {service.capitalize()}", "", summary, "", *head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(default: str | None) -> str:
    if default is None:
        return "required"
    return f"`{_cell(default)}`" if default else ""


if __name__ == "__main__":
    main()
