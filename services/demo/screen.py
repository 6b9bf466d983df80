"""What the demonstration shows: colour and tables on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from services.demo.proofs import Proofs


class Steps(Protocol):
    """Progress on long work."""

    def done(self, what: str) -> None:
        """Note one more finished piece."""
        ...


class Screen:
    """Standard output."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self, text: str) -> None:
        """Begin a part."""
        if self._console.is_terminal:
            self._console.rule(f"[bold]{text}", align="left")
        else:
            self.line(f"== {text}")

    def line(self, text: str, style: str = "") -> None:
        """Show one line."""
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def token(self, text: str) -> None:
        """Show a piece of an answer, without a line's end."""
        self._console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Steps]:
        """Show how far a long piece of work is."""
        if not self._console.is_terminal:
            yield _Lines(self, title, total)
            return
        with Progress(console=self._console, transient=True) as progress:
            yield _Bar(progress, title, total)

    def summary(self, proofs: Proofs) -> None:
        """Show what was proved, and each turn's timings."""
        rows = [("ok" if p.held else "FAILED", p.claim, p.detail) for p in proofs.proofs]
        self.table("What this proved", ("", "claim", "measured"), rows)
        times = [
            (t.name, *map(_milliseconds, (t.accepted, t.first_token, t.done, t.archived)))
            for t in proofs.timings
        ]
        heads = ("turn", "accepted ms", "first token ms", "done ms", "archived ms")
        self.table("Timings", heads, times)

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows under their heads."""
        self.title(title)
        if not self._console.is_terminal:
            for row in rows:
                pairs = zip(heads, row, strict=True)
                self.line("  ".join(f"{head}: {cell}" if head else cell for head, cell in pairs))
            return
        table = Table(*heads)
        for row in rows:
            table.add_row(*row, style="red" if row[0] == "FAILED" else "")
        self._console.print(table)


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    def __init__(self, screen: Screen, title: str, total: int) -> None:
        self._screen, self._title, self._total, self._done = screen, title, total, 0

    def done(self, what: str) -> None:
        self._done += 1
        if self._done == self._total or self._done % 5 == 0:
            self._screen.line(f"{self._title}: {self._done} of {self._total} ({what})")


class _Bar:
    """Progress on a terminal."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress, self._title = progress, title
        self._task = progress.add_task(title, total=total)

    def done(self, what: str) -> None:
        self._progress.update(self._task, advance=1, description=f"{self._title}: {what}")


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
