"""From a command's coroutine to an exit status."""

import asyncio
import io
import sys
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, NoReturn

import click

from maieutic_client.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MaieuticError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)


class Exit(IntEnum):
    """What the exit status says."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    KEY_REFUSED = 3
    NOT_FOUND = 4
    NOT_REACHABLE = 5
    INTERRUPTED = 130


def run(work: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run a command to its end and leave with its status; errors are told on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a terminal, or who reads our output, has no letter for is no reason to stop.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = asyncio.run(work) or Exit.DONE
    except MaieuticError as error:
        click.echo(explained(error), err=True)
        status = status_of(error)
    except UnicodeError:
        click.echo("error: what was typed, or is named, is not UTF-8: convert it first", err=True)
        status = Exit.WRONG_INPUT
    except (KeyboardInterrupt, asyncio.CancelledError):
        # Which of them Ctrl-C raises depends on whether the loop has begun to count interrupts.
        status = Exit.INTERRUPTED
    except BrokenPipeError:
        # Who read our output has left, as `head` does; Python would complain once more at exit.
        sys.stdout = None
        status = Exit.FAILED
    sys.exit(int(status))


def explained(error: MaieuticError) -> str:
    """Return the error for people: each wrong field with its fix, or the message."""
    if error.violations:
        lines = [f"  {violation.field}: {violation.description}" for violation in error.violations]
        return "\n".join(["error: the request was refused", *lines])
    if isinstance(error, Unavailable) and not error.from_service:
        return f"error: the gateway cannot be reached ({error.message})"
    return f"error: {error.message}"


def status_of(error: MaieuticError) -> Exit:
    """Return the exit status for an error."""
    match error:
        case InvalidArgument():
            return Exit.WRONG_INPUT
        case Unauthenticated() | PermissionDenied():
            return Exit.KEY_REFUSED
        case NotFound():
            return Exit.NOT_FOUND
        case Unavailable() | DeadlineExceeded():
            return Exit.NOT_REACHABLE
        case _:
            return Exit.FAILED
