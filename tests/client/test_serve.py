"""`maieutic serve` as a process of its own: the whole backend, and the other commands beside it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.emulators.anthropic import anthropic_emulator
from tests.packages import install_example

READY_SECONDS = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


async def command(
    home: Path,
    *arguments: str,
    stderr: int | IO[bytes] = asyncio.subprocess.PIPE,
    **environ: str,
) -> asyncio.subprocess.Process:
    base = {name: value for name, value in os.environ.items() if "MAIEUTIC" not in name}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "maieutic_client.cli", *arguments),
        env={**base, "MAIEUTIC_HOME": str(home), "MAIEUTIC_MODEL_WORD_DELAY": "0", **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def output(home: Path, *arguments: str, **environ: str) -> str:
    process = await command(home, *arguments, stderr=asyncio.subprocess.PIPE, **environ)
    out, err = await asyncio.wait_for(process.communicate(), READY_SECONDS)
    assert process.returncode == 0, err.decode()
    return out.decode()


@asynccontextmanager
async def serving(home: Path, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    home.mkdir()
    with (home / "serve.log").open("wb") as log:
        process = await command(home, "serve", "--listen", "127.0.0.1:0", stderr=log, **environ)
    assert process.stdout is not None
    try:
        first = await asyncio.wait_for(process.stdout.readline(), READY_SECONDS)
        assert first.startswith(b"serving on 127.0.0.1:"), (home / "serve.log").read_text()
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), READY_SECONDS)


async def test_documents_and_questions_go_to_the_backend_that_is_served(
    home: Path, tmp_path: Path
) -> None:
    text = tmp_path / "tea.md"
    text.write_text("Green tea is brewed at eighty degrees.")
    async with serving(home) as process:
        assert (home / "address").exists()
        assert (await output(home, "docs", "add", str(text))).startswith("added tea.md: 1 new")
        answer = await output(home, "chat", "How hot is green tea brewed?")
        assert "eighty degrees" in answer
        assert "[1] tea.md: " in answer

        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        rest = await asyncio.wait_for(process.stdout.read(), READY_SECONDS)
        assert rest.endswith(b"stopped\n")
        assert await process.wait() == 0
    assert not (home / "address").exists()


async def test_with_the_key_of_anthropic_claude_answers(home: Path) -> None:
    async with anthropic_emulator() as emulator:
        variables = {"ANTHROPIC_API_KEY": "key", "ANTHROPIC_BASE_URL": emulator.url}
        async with serving(home, **variables) as process:
            assert process.stdout is not None
            lines = [(await process.stdout.readline()).decode() for _ in range(5)]
            assert lines[-1].startswith("  answers by Claude (claude-")
            answer = await output(home, "chat", "Is it you?")
    assert "You asked, as message 1: Is it you?" in answer
    assert len(emulator.requests) == 1


async def test_a_command_starts_the_backend_for_itself_where_none_is_served(
    home: Path, tmp_path: Path
) -> None:
    """Here after a backend that was killed, which leaves its address behind."""
    text = tmp_path / "tea.md"
    text.write_text("Green tea is brewed at eighty degrees.")
    async with serving(home) as process:
        await output(home, "docs", "add", str(text))
        process.kill()
        await process.wait()
    assert (home / "address").exists()
    assert "tea.md" in await output(home, "docs", "list")


async def test_an_agent_of_another_package_answers_who_asks_for_it(
    home: Path, tmp_path: Path
) -> None:
    install_example(tmp_path / "packages")
    call = {"name": "look_up_term", "input": {"term": "Headrace"}}
    script = json.dumps({"script": {"calls": [[call]], "text": "The headrace is missing."}})
    question = ("chat", "--no-documents", "--agent", "reviewer", script)
    settings = {
        "PYTHONPATH": str(tmp_path / "packages"),
        "MAIEUTIC_MODEL_KIND": "scripted",
        "MAIEUTIC_EXTENSIONS_AGENTS": '["reviewer"]',
        "MAIEUTIC_EXTENSIONS_TOOLS": '["glossary"]',
    }
    said = await output(home, *question, **settings)
    assert said.strip() == "The headrace is missing."


async def test_a_second_backend_in_the_same_home_is_refused(home: Path) -> None:
    async with serving(home):
        second = await command(home, "serve", "--listen", "127.0.0.1:0")
        _, err = await asyncio.wait_for(second.communicate(), READY_SECONDS)
    assert second.returncode == 1
    assert b"in use" in err
    assert b"Traceback" not in err
