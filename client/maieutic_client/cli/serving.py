"""`maieutic serve` and `maieutic demo`: the backend in one process."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from maieutic_client.cli.screen import Screen
from maieutic_client.cli.target import (
    ADDRESS_FILE,
    DEFAULT_HOME,
    embedded_settings,
    home_option,
    server_module,
)


@click.command()
@click.option(
    "--listen",
    envvar="MAIEUTIC_LISTEN",
    default="127.0.0.1:50051",
    show_default=True,
    help="host:port of the gateway; port 0 takes a free one.  [env: MAIEUTIC_LISTEN]",
)
@home_option
def serve(*, listen: str, home: Path) -> None:
    """Run the whole backend in one process, until Ctrl-C or SIGTERM.

    No other server is needed. Everything is kept in the home; a restart loses nothing. With
    ANTHROPIC_API_KEY in the environment Claude answers, without it an offline model.
    """
    home = home.expanduser()
    settings = embedded_settings(home, listen=listen)
    embedded = server_module("services.embedded")
    screen = Screen()

    async def work() -> None:
        async with embedded.embedded(settings) as stack:
            with _announced(home, stack.address):
                _welcome(screen, home, stack.address, stack.key_file)
                screen.line(f"  answers by {_model(settings.model)}")
                await asyncio.Event().wait()

    try:
        server_module("services.runtime.lifecycle").run(work())
    except embedded.HomeInUse as error:
        raise click.ClickException(str(error)) from error
    screen.line("stopped")


@click.command(context_settings={"ignore_unknown_options": True})
def demo() -> None:
    """Hold two conversations, and show what survives what.

    In one real documents are asked about; in the other an agent asks, and code is written from what
    was settled. Nothing of it is kept.

    Exits with 0 only if every expectation held.
    """
    sys.exit(server_module("services.demo.__main__").main())


def _welcome(screen: Screen, home: Path, address: str, key_file: Path) -> None:
    chat = (
        "maieutic chat"
        if home == Path(DEFAULT_HOME).expanduser()
        else f"maieutic chat --home {home}"
    )
    screen.line(f"serving on {address}", style="bold green")
    screen.line(f"  API key in {key_file}")
    screen.line(f"  state in {home}")
    screen.line(f"  talk to it: {chat}")
    screen.line("  stop with Ctrl-C")


def _model(model: Any) -> str:
    if model.kind == "claude":
        return f"Claude ({model.claude.model})"
    if model.kind == "offline":
        return "the offline model: set ANTHROPIC_API_KEY to let Claude answer"
    return f"the {model.kind} model"


@contextmanager
def _announced(home: Path, address: str) -> Iterator[None]:
    """Leave the address where the other commands look for it."""
    file = home / ADDRESS_FILE
    file.write_text(f"{address}\n", encoding="utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
