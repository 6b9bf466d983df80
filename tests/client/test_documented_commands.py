"""The commands that the pages name, against the commands that there are."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from maieutic_client.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"(?:^|`|\$\(|\s)(?:\.venv/bin/)?maieutic ([a-z][^`|)\n]*)", re.MULTILINE)
SPAN = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def named(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command, in blocks of code and between backticks."""
    for block, inline in SPAN.findall(page.read_text(encoding="utf-8")):
        for command in NAMED.findall(block or inline):
            yield command.split()


def unknown(words: list[str]) -> str:
    """Return the first word that is neither a command nor an option of it; nothing if all are."""
    command: click.Command = main
    for word in words:
        if word.startswith("--"):
            options = {name for one in command.params for name in one.opts}
            if word.partition("=")[0] not in options:
                return word
        elif isinstance(command, click.Group):
            known = command.get_command(click.Context(command), word)
            if known is None:
                return word
            command = known
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_commands_and_options_that_there_are(page: Path) -> None:
    wrong = {" ".join(words): word for words in named(page) if (word := unknown(words))}
    assert not wrong


def test_the_readme_s_commands_are_looked_at() -> None:
    found = {words[0] for words in named(ROOT / "README.md")}
    assert {"docs", "chat", "sessions", "analyze", "specs", "code", "artifacts", "usage"} <= found
    assert unknown(["chat", "--mod"]) == "--mod"
    assert unknown(["specs", "lost"]) == "lost"


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [
        page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme
    ]
    assert not missing
