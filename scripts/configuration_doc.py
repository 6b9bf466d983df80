#!/usr/bin/env python3
"""Write docs/configuration.md from the services' settings classes; --check only compares.

The names of the variables go to the Helm chart, too, which refuses others.

Run from the checkout with its own Python: .venv/bin/python scripts/configuration_doc.py
"""

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from services.embedded import EmbeddedSettings
from services.runtime.settings import describe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"
NAMES = ROOT / "deploy" / "helm" / "maieutic" / "settings.json"
INTRODUCTION = """\
# Configuration

Every service reads its settings from environment variables, once, when it starts; a variable that
is wrong or missing is named in the error. Any `NAME` may come from a file instead, as a mounted
secret does: `NAME_FILE` gives the path. Durations are in seconds. Lists and mappings are written
as JSON.

This page is generated from the settings classes by `scripts/configuration_doc.py`.
"""


def main() -> None:
    """Write the page and the names, or with --check exit with 1 if they are not up to date."""
    parser = argparse.ArgumentParser(description="Write docs/configuration.md.")
    parser.add_argument("--check", action="store_true", help="only compare; fail if it differs")
    only_compare = parser.parse_args().check
    for file, text in {PAGE: "\n".join([INTRODUCTION, *sections()]), NAMES: names()}.items():
        if not only_compare:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            sys.exit(
                f"{file.relative_to(ROOT)} is not up to date: run scripts/{Path(__file__).name}"
            )


def sections() -> Iterator[str]:
    """Return a section for the embedded mode, then one for each service by name."""
    yield section("embedded", EmbeddedSettings)
    for service in services():
        yield section(service, settings_class(service))


def names() -> str:
    """Return the variables' names by service, as JSON."""
    known = {
        service: [row.name for row in describe(settings_class(service))] for service in services()
    }
    return json.dumps(known, indent=1) + "\n"


def services() -> list[str]:
    """Return the services that have settings, by name."""
    files = (ROOT / "services").glob("*/settings.py")
    # The runtime reads settings and has none.
    return sorted(file.parent.name for file in files if file.parent.name != "runtime")


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
