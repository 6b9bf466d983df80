"""`maieutic emulate`: stand-ins for the services outside, to develop and to test against.

They live beside the project's tests, so they run from a checkout.
"""

import importlib
from pathlib import Path
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
    _run("anthropic", host, port)


@emulate.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8091, show_default=True, help="Port; 0 takes a free one.")
@click.option(
    "--tls",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Serve over TLS; the authority to trust is written into this folder.",
)
def pinecone(*, host: str, port: int, tls: Path | None) -> None:
    """Emulate Pinecone until Ctrl-C or SIGTERM. Records last as long as it runs.

    \b
    Let a backend use it:
      PINECONE_API_KEY=any MAIEUTIC_PINECONE_CONTROL_HOST=http://127.0.0.1:8091 maieutic serve
    Let two of five requests lose their connection:
      curl -X PUT http://127.0.0.1:8091/plan -d '{"rules": [{"fault": "reset", "share": 0.4}]}'
    See what came:
      curl http://127.0.0.1:8091/requests
    """  # noqa: D301 - click wants the character
    _run("pinecone", host, port, tls)


def _run(name: str, host: str, port: int, *further: Path | None) -> None:
    emulator = _emulator(f"tests.emulators.{name}")
    try:
        server_module("services.runtime.lifecycle").run(emulator.serve(host, port, *further))
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
