"""What the demonstration shows and proves."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from maieutic_client import Maieutic
from services.demo.__main__ import interview, verdict
from services.demo.interview import STORAGE, USERS
from services.demo.proofs import Proofs
from services.demo.screen import Screen

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_the_agent_s_questions_end_in_code_and_all_that_is_claimed_holds(
    client: Maieutic, tmp_path: Path
) -> None:
    shown, proofs = StringIO(), Proofs()
    screen = Screen(Console(file=shown))
    await interview(client, screen, proofs, tmp_path)
    assert verdict(screen, proofs) == 0, shown.getvalue()
    assert "All of it held. 5 of 5 expectations." in shown.getvalue()
    for first, second in (STORAGE, USERS):
        assert f"first: {first}  second: {second}\n" in shown.getvalue()
    assert "\x1b" not in shown.getvalue(), "without a terminal it is plain text"
    saved = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert STORAGE[1] in saved["specifications.json"]


async def test_what_does_not_hold_fails_the_demonstration() -> None:
    shown, proofs = StringIO(), Proofs()
    proofs.expect("two and two are four", held=True, detail="4")
    proofs.expect("two and two are five", held=False, detail="4")
    assert verdict(Screen(Console(file=shown)), proofs) == 1
    assert "FAILED  claim: two and two are five  measured: 4\n" in shown.getvalue()
    assert "Not all of it held. 1 of 2 expectations." in shown.getvalue()
