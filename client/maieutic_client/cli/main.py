"""The commands of `maieutic`."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from maieutic_client.cli.admin import admin
from maieutic_client.cli.analyzing import analyze
from maieutic_client.cli.artifacts import artifacts
from maieutic_client.cli.chat import chat
from maieutic_client.cli.coding import code
from maieutic_client.cli.documents import docs
from maieutic_client.cli.emulating import emulate
from maieutic_client.cli.indexes import index
from maieutic_client.cli.notes import notes
from maieutic_client.cli.running import Exit
from maieutic_client.cli.serving import demo, serve
from maieutic_client.cli.sessions import sessions
from maieutic_client.cli.specifications import specs
from maieutic_client.cli.usage import usage


def _version() -> str:
    try:
        return version("maieutic")
    except PackageNotFoundError:  # run from a copy that is not installed
        return "unknown"


class Interruptible(click.Group):
    """Commands that Ctrl-C leaves with one status, also before and after their own work."""

    def make_context(self, *given: Any, **others: Any) -> click.Context:
        """Parse the arguments."""
        with _interrupts():
            return super().make_context(*given, **others)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _interrupts():
            return super().invoke(ctx)


@contextmanager
def _interrupts() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:  # click itself would say that the command has failed
        raise click.exceptions.Exit(int(Exit.INTERRUPTED)) from error


@click.group(
    cls=Interruptible,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(_version(), prog_name="maieutic")
def main() -> None:
    """Conversations over your documents.

    \b
    maieutic serve                  run the whole backend in one process
    maieutic docs add FOLDER        store and index documents
    maieutic chat                   ask questions, get answers with citations
    maieutic chat --mode socratic   be asked, until it is clear what you want
    maieutic code SESSION_ID        have files written from what was settled

    Commands talk to the gateway that --address or MAIEUTIC_ADDRESS names. Without an address they
    use the backend in MAIEUTIC_HOME (~/.maieutic): the one that `maieutic serve` runs there, or,
    if none runs, one that the command starts for itself.

    What shows a list is a table at a terminal, else a line with tabs for each row; with --json it
    is what the API has said.

    Exit status: 0 done, 1 failed, 2 wrong input, 3 key refused, 4 not found, 5 not reachable,
    130 interrupted.
    """  # noqa: D301 - click wants the character


for command in (
    *(serve, chat, analyze, code, docs, sessions, notes, specs, artifacts),
    *(usage, index, admin, demo, emulate),
):
    main.add_command(command)
