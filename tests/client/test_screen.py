"""What a terminal shows."""

from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from maieutic_client.cli.screen import Screen

ID = "x" * 48
HEADINGS = ("ID", "FIRST", "SECOND", "DECIDED")
ROW = (ID, "It must run on SQLite, says one.", "It must run on Postgres.", "")


def shown(width: int) -> list[str]:
    screen, written = Screen(), StringIO()
    screen.out = Console(file=written, force_terminal=True, width=width, color_system=None)
    screen.table(HEADINGS, [ROW])
    return [line.rstrip() for line in written.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_at_any_width_all_is_shown_and_no_word_is_cut(width: int) -> None:
    words = " ".join(shown(width)).split()
    for cell in ROW:
        assert set(cell.split()) <= set(words)


def test_wide_terminals_show_a_table_and_narrow_ones_a_paragraph_a_row() -> None:
    assert shown(140)[0].split() == list(HEADINGS)
    assert shown(140)[1].startswith(f"{ID}  It must run on SQLite, says one.")
    first, *others = shown(60)
    assert first == ID
    assert others[0].startswith("  first It must run on SQLite, says one.   second")
    assert not any("decided" in line for line in others), "empty cells are not named"


HOSTILE = "tea\x1b]52;c;b3duZWQ=\x07 and\x9b2J [red]more\r\n"


@pytest.mark.parametrize(
    "show",
    [
        lambda screen: screen.line(HOSTILE),
        lambda screen: screen.part(HOSTILE),
        lambda screen: screen.table(("A",), [(HOSTILE,)]),
        lambda screen: screen.table(("ID", "A"), [("x" * 99, HOSTILE)]),
        lambda screen: screen.aside(HOSTILE),
        lambda screen: screen.problem(HOSTILE),
    ],
)
def test_what_others_wrote_gives_a_terminal_no_orders(
    show: Callable[[Screen], None], capsys: pytest.CaptureFixture[str]
) -> None:
    screen, written = Screen(), StringIO()
    screen.out = screen.err = Console(
        file=written, force_terminal=True, width=80, color_system=None, highlight=False
    )
    show(screen)
    told = written.getvalue() + capsys.readouterr().out
    assert "tea]52;c;b3duZWQ= and2J [red]more" in " ".join(told.split())
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(told)


def test_what_programs_read_is_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().line(HOSTILE)
    Screen().part(HOSTILE)
    assert capsys.readouterr().out == f"{HOSTILE}\n{HOSTILE}"
