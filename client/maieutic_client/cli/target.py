"""Which backend a command talks to: the options for it, and the way there."""

import asyncio
import functools
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc

from maieutic_client.client import Maieutic
from maieutic_client.retry import RetryPolicy

DEFAULT_HOME = "~/.maieutic"
KEY_FILE = "api.key"
ADDRESS_FILE = "address"
DIAL_SECONDS = 2.0
PATIENCE_SECONDS = 5.0
"""At a terminal nobody waits longer for a gateway that is away."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the options say about the backend."""

    address: str | None
    key: str | None
    user: str | None
    home: Path
    tls: bool
    ca_file: Path | None


home_option = click.option(
    "--home",
    envvar="MAIEUTIC_HOME",
    default=DEFAULT_HOME,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the backend on this machine.  [env: MAIEUTIC_HOME]",
)


def target_options(command: F) -> F:
    """Give the command the options that name a backend, as its argument `target`."""

    @click.option(
        "--address",
        envvar="MAIEUTIC_ADDRESS",
        help="Gateway to talk to, host:port.  [env: MAIEUTIC_ADDRESS]",
    )
    @click.option(
        "--key",
        envvar="MAIEUTIC_API_KEY",
        help=f"API key; without it the one in {KEY_FILE} of the home.  [env: MAIEUTIC_API_KEY]",
    )
    @click.option("--user", envvar="MAIEUTIC_USER", help="End user to act for, if the key may.")
    @click.option("--tls", is_flag=True, help="Dial with TLS and the public authorities.")
    @click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Dial with TLS and this certificate authority (PEM).",
    )
    @home_option
    @functools.wraps(command)
    def wrapped(
        *,
        address: str | None,
        key: str | None,
        user: str | None,
        home: Path,
        tls: bool,
        ca_file: Path | None,
        **others: Any,
    ) -> Any:
        target = Target(
            address=address, key=key, user=user, home=home.expanduser(), tls=tls, ca_file=ca_file
        )
        return command(target=target, **others)

    return wrapped  # type: ignore[return-value] # the options take the place of `target`


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Maieutic]:
    """Connect to the named gateway, or to the home's backend, which is started if need be."""
    async with AsyncExitStack() as stack:
        if target.address:
            address, key = target.address, target.key or _stored_key(target.home)
        else:
            address, key = await _at_home(target, stack)
        yield await stack.enter_async_context(
            Maieutic.connect(
                address,
                api_key=key,
                user=target.user,
                credentials=_credentials(target),
                retry=RetryPolicy(give_up_after=PATIENCE_SECONDS),
            )
        )


async def _at_home(target: Target, stack: AsyncExitStack) -> tuple[str, str]:
    if address := await _served_at(target.home):
        return address, target.key or _stored_key(target.home)
    server = server_module("services.embedded")
    settings = embedded_settings(target.home, listen="127.0.0.1:0")
    try:
        running = await stack.enter_async_context(server.embedded(settings))
    except server.HomeInUse as error:
        raise click.ClickException(str(error)) from error
    return running.address, target.key or running.api_key


async def _served_at(home: Path) -> str | None:
    """Return where `maieutic serve` answers; a killed one leaves an address where nobody does."""
    try:
        address = await asyncio.to_thread((home / ADDRESS_FILE).read_text, encoding="utf-8")
        host, _, port = address.strip().rpartition(":")
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), DIAL_SECONDS)
    except (OSError, TimeoutError):
        return None
    writer.close()
    return address.strip()


def embedded_settings(home: Path, **given: Any) -> Any:
    """Return the settings of the backend on this machine: the environment's, and those given."""
    server, settings = (
        server_module("services.embedded"),
        server_module("services.runtime.settings"),
    )
    try:
        loaded = server.load_embedded()
    except settings.BadSettings as error:
        raise click.UsageError(str(error)) from error
    return replace(loaded, home=home, **given)


def server_module(name: str) -> Any:
    """Import a module of the server, which may not be installed beside the client."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the server is not installed here ({error.name} is missing): run this from a checkout "
            "after `make`, or name a running gateway with --address or MAIEUTIC_ADDRESS"
        ) from error


def _stored_key(home: Path) -> str:
    path = home / KEY_FILE
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise click.UsageError(
            f"no API key: give --key or MAIEUTIC_API_KEY, or start `maieutic serve`, which keeps "
            f"one in {path}"
        ) from error


def _credentials(target: Target) -> grpc.ChannelCredentials | None:
    if target.ca_file:
        return grpc.ssl_channel_credentials(target.ca_file.read_bytes())
    return grpc.ssl_channel_credentials() if target.tls else None
