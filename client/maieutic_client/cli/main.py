"""The commands of `maieutic`."""

from importlib.metadata import PackageNotFoundError, version

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
from maieutic_client.cli.serving import demo, serve
from maieutic_client.cli.sessions import sessions
from maieutic_client.cli.specifications import specs
from maieutic_client.cli.usage import usage


def _version() -> str:
    try:
        return version("maieutic")
    except PackageNotFoundError:  # run from a copy that is not installed
        return "unknown"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
