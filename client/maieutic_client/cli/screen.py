"""What commands show: tables and colour at a terminal, plain lines anywhere else."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from maieutic_client.cli.as_json import json_line

M = TypeVar("M", bound=Message)

BYTES_IN_LINE = 16
GAP = 2
"""Between the columns of a table."""
PRINTABLE = range(0x20, 0x7F)
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal obeys instead of showing it, but for tabs and ends of lines."""


class Screen:
    """Standard output and standard error."""

    def __init__(self) -> None:
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    @property
    def rich(self) -> bool:
        """Whether a person watches."""
        return self.out.is_terminal

    def line(self, text: str = "", *, style: str = "") -> None:
        """Show one line; *style* counts at a terminal only."""
        if self.rich:
            self.out.print(_harmless(text), style=style or None)
        else:
            # Neither wrapped nor its tabs spread: a line is one record for whoever reads it.
            click.echo(text)

    def part(self, text: str) -> None:
        """Show a piece of running text."""
        click.echo(CONTROLS.sub("", text) if self.rich else text, nl=False)

    def aside(self, text: str) -> None:
        """Tell a person something that is not the result."""
        self.err.print(_harmless(text), style="dim", soft_wrap=True)

    def problem(self, text: str) -> None:
        """Tell what went wrong, on standard error."""
        self.err.print(_harmless(text), style="red", soft_wrap=True)

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows: as a table at a terminal, else one line each, tabs between the cells.

        At a terminal where words, such as ids, would be cut, each row is a paragraph.
        """
        if not self.rich:
            for row in rows:
                self.line("\t".join(" ".join(cell.split()) for cell in row))
            return
        widths = _widths([*zip(headings, *rows, strict=True)], self.out.width)
        if widths is None:
            self._paragraphs(headings, rows)
            return
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
        for heading, width in zip(headings, widths, strict=True):
            table.add_column(heading, width=width)
        for row in rows:
            table.add_row(*(_harmless(cell) for cell in row))
        self.out.print(table)

    def records(
        self,
        messages: Sequence[M],
        headings: Sequence[str],
        row: Callable[[M], Sequence[str]],
        *,
        as_json: bool,
        none: str = "",
    ) -> None:
        """Show messages: a row of a table each, or a line of JSON; *none* if there are none."""
        if as_json:
            for message in messages:
                click.echo(json_line(message))
            return
        self.table(headings, [row(message) for message in messages])
        if none and not messages:
            self.aside(none)

    def _paragraphs(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for first, *others in rows:
            self.line(first, style="bold")
            named = zip(headings[1:], others, strict=True)
            said = (
                f"[dim]{heading.lower()}[/dim] {_harmless(cell)}" for heading, cell in named if cell
            )
            self.out.print(Padding("   ".join(said), (0, 0, 0, GAP)))

    @contextmanager
    def progress(self, doing: str, total: int) -> Iterator["Steps"]:
        """Show how far a long work has come; without a terminal the work's own lines do."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.out, transient=True, disable=not self.rich) as bar:
            yield Steps(bar, doing, total)


def _harmless(text: str) -> str:
    """Return what others wrote as text that neither a terminal nor markup takes for orders."""
    return escape(CONTROLS.sub("", text))


def _widths(columns: Sequence[Sequence[str]], whole: int) -> list[int] | None:
    """Return how wide each column is to be so that no word is cut; None if that cannot be."""
    least = [
        max(cell_len(word) for cell in column for word in ("", *cell.split())) for column in columns
    ]
    wished = [max(cell_len(cell) for cell in column) for column in columns]
    spare = whole - sum(least) - GAP * (len(columns) - 1)
    if spare < 0:
        return None
    widths = [*least]
    # Who wishes for least is served first: what it leaves is for the others.
    order = sorted(range(len(columns)), key=lambda place: wished[place] - least[place])
    for served, place in enumerate(order):
        more = min(wished[place] - least[place], spare // (len(columns) - served))
        widths[place] += more
        spare -= more
    return widths


class Steps:
    """The progress of one work."""

    def __init__(self, bar: Progress, doing: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(doing, total=total)

    def of(self, total: int) -> None:
        """Say how many steps there are, if that was not known before."""
        self._bar.update(self._task, total=total)

    def at(self, name: str) -> None:
        """Say what is being worked on."""
        self._bar.update(self._task, description=_harmless(name))

    def done(self) -> None:
        """Count one step."""
        self._bar.advance(self._task)


def when(time: Timestamp) -> str:
    """Return a point in time as local date and time, empty if it is unset."""
    if not time.seconds:
        return ""
    return time.ToDatetime().astimezone().strftime("%Y-%m-%d %H:%M")


def size(count: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:  # noqa: PLR2004 - the units' step
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def dump(content: bytes) -> Iterator[str]:
    """Yield the bytes in lines, as `hexdump -C` does."""
    for start in range(0, len(content), BYTES_IN_LINE):
        part = content[start : start + BYTES_IN_LINE]
        text = "".join(chr(byte) if byte in PRINTABLE else "." for byte in part)
        yield f"{start:08x}  {part.hex(' '):{3 * BYTES_IN_LINE}} |{text}|"
