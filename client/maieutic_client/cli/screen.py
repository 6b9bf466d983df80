"""What commands show: tables and colour at a terminal, plain lines anywhere else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

BYTES_IN_LINE = 16
PRINTABLE = range(0x20, 0x7F)


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
            self.out.print(escape(text), style=style or None)
        else:
            # Neither wrapped nor its tabs spread: a line is one record for whoever reads it.
            click.echo(text)

    def part(self, text: str) -> None:
        """Show a piece of running text."""
        click.echo(text, nl=False)

    def aside(self, text: str) -> None:
        """Tell a person something that is not the result."""
        self.err.print(escape(text), style="dim", soft_wrap=True)

    def problem(self, text: str) -> None:
        """Tell what went wrong, on standard error."""
        self.err.print(escape(text), style="red", soft_wrap=True)

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows: as a table at a terminal, else one line each, tabs between the cells."""
        if not self.rich:
            for row in rows:
                self.line("\t".join(" ".join(cell.split()) for cell in row))
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column, heading in enumerate(headings):
            # The first cell is what one copies: it is never cut.
            widest = max((len(row[0]) for row in rows), default=0) if column == 0 else None
            table.add_column(heading, min_width=widest, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)

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
        self._bar.update(self._task, description=escape(name))

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
