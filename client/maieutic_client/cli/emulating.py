"""`maieutic emulate`: stand-ins for the services outside, to develop and to test against.

They live beside the project's tests, so they run from a checkout.
"""

import importlib
from typing import Any

import click

from maieutic_client.cli.target import server_module


@click.group()
def emulate() -> None:
    """Run a stand-in for a service outside, with faults as you say."""


@emulate.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8090, show_default=True, help="Port; 0 takes a free one.")
def anthropic(*, host: str, port: int) -> None:
    """Emulate Anthropic's API until Ctrl-C or SIGTERM.

    \b
    Let a backend use it:
      ANTHROPIC_API_KEY=any ANTHROPIC_BASE_URL=http://127.0.0.1:8090 maieutic serve
    Let every second request fail:
      curl -X PUT http://127.0.0.1:8090/plan -d '{"rules": [{"status": 529, "every": 2}]}'
    See what came:
      curl http://127.0.0.1:8090/requests
    """  # noqa: D301 - click wants the character
    emulator = _emulator("tests.emulators.anthropic")
    try:
        server_module("services.runtime.lifecycle").run(emulator.serve(host, port))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _emulator(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the emulators are not installed here ({error.name} is missing): run this from a "
            "checkout with the packages for its tests, which `make test` installs"
        ) from error
