"""What a terminal shows."""

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
