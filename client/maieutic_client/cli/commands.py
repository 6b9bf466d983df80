"""Commands and groups of commands to which an id is an id, whatever it begins with."""

import re
from typing import Any

import click

MASK = "\0"
"""No argument of a process can have it."""
_DASHED_ID = re.compile(r"-[A-Za-z0-9_.-]{23,}")
"""One id in 64 begins with a dash, as options do. No option is that long. A message's has a dot."""


class Command(click.Command):
    """A command that may be given an id that begins with a dash."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with such ids hidden from the search for options."""
        masked = [f"{MASK}{arg}" if _DASHED_ID.fullmatch(arg) else arg for arg in args]
        rest = super().parse_args(ctx, masked)
        ctx.params = {name: _unmasked(value) for name, value in ctx.params.items()}
        return rest


class Group(click.Group):
    """A group of such commands, and of such groups."""

    command_class = Command
    group_class = type


def _unmasked(value: Any) -> Any:
    if isinstance(value, str):
        return value.removeprefix(MASK)
    if isinstance(value, tuple):
        return tuple(_unmasked(one) for one in value)
    return value
