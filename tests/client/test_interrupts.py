"""Ctrl-C before, in and after the work of a command."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner

from maieutic_client.cli.main import Interruptible
from maieutic_client.cli.running import run


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["of the group", "of the command", "in the command"])
def test_an_interrupt_is_told_as_one_whenever_it_comes(when: str) -> None:
    def parsed(place: str) -> click.Option:
        return click.Option(["--given"], callback=interrupted if when == place else None)

    work = interrupted if when == "in the command" else None
    command = click.Command("work", params=[parsed("of the command")], callback=work)
    group = Interruptible("maieutic", [command], params=[parsed("of the group")])
    ended = CliRunner().invoke(group, ["work"])
    assert (ended.exit_code, ended.output) == (130, "")


async def signalled() -> None:
    signal.raise_signal(signal.SIGINT)
    await asyncio.Event().wait()


async def cancelled() -> None:
    """Ctrl-C in the moment in which the loop's handler is there, and counts nothing yet."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("work", [signalled, cancelled])
def test_an_interrupt_of_the_work_is_told_as_one(work: Callable[[], Any]) -> None:
    with pytest.raises(SystemExit) as left:
        run(work())
    assert left.value.code == 130
