"""`maieutic artifacts`, its output read by a program."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio
from click.testing import CliRunner, Result

from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnOutcome
from maieutic_client.cli import main
from tests.fakes.artifacts import Shelf
from tests.fakes.gateway import Stack, gateway_stack

TURN = "t" * 48
SESSION = "s" * 48


@dataclass(frozen=True, kw_only=True)
class Cli:
    stack: Stack
    folder: Path

    @property
    def shelf(self) -> Shelf:
        return self.stack.shelf

    async def run(self, *arguments: str, **environ: str) -> Result:
        runner = CliRunner(
            env={
                "MAIEUTIC_HOME": str(self.folder / "home"),
                "MAIEUTIC_ADDRESS": self.stack.address,
                "MAIEUTIC_API_KEY": self.stack.key,
                **environ,
            }
        )
        return await asyncio.to_thread(runner.invoke, main, ["artifacts", *arguments])


@pytest_asyncio.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    async with gateway_stack(tmp_path) as stack:
        stack.conversations.beside(TURN, TurnOutcome(state=TURN_STATE_COMPLETED))
        yield Cli(stack=stack, folder=tmp_path)


async def test_files_are_listed_as_lines(cli: Cli) -> None:
    artifact = cli.shelf.put("src/main.py", b"x" * 2048)
    cli.shelf.put("other.py", b"x", turn="u")
    listed = await cli.run("list", SESSION)
    assert [line.split("\t")[1] for line in listed.stdout.splitlines()] == [
        "src/main.py",
        "other.py",
    ]
    listed = await cli.run("list", "--turn", TURN)
    (line,) = listed.stdout.splitlines()
    cells = line.split("\t")
    assert cells[:5] == [artifact.artifact_id, "src/main.py", "2.0 KiB", "text/plain", TURN]
    assert (await cli.run("list")).exit_code == 2
    assert "no files" in (await cli.run("list", "--turn", "z" * 48)).stderr


async def test_a_file_is_written_to_standard_output_or_to_a_file(cli: Cli) -> None:
    content = b"\x00\xff\r\n" * 600
    artifact = cli.shelf.put("a.bin", content)
    assert (await cli.run("get", artifact.artifact_id)).stdout_bytes == content
    output = cli.folder / "copy.bin"
    told = await cli.run("get", artifact.artifact_id, "--output", str(output))
    assert told.stdout == f"wrote {output}: 2.3 KiB\n"
    assert output.read_bytes() == content


async def test_a_terminal_is_shown_plain_text_only(cli: Cli) -> None:
    text = cli.shelf.put("a.py", "print('Grüße')\n".encode())
    hostile = cli.shelf.put("b.py", b"\x1b]0;title\x07", turn="u")
    binary = cli.shelf.put("c.bin", b"\xff\xfe", turn="v")
    shown = await cli.run("get", text.artifact_id, FORCE_COLOR="1")
    assert shown.stdout == "print('Grüße')\n"
    for artifact in (hostile, binary):
        refused = await cli.run("get", artifact.artifact_id, FORCE_COLOR="1")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "--output" in refused.stderr


async def test_the_files_of_a_turn_are_saved_and_told_one_by_one(cli: Cli) -> None:
    cli.shelf.put("main.py", b"x")
    cli.shelf.put("src/a.py", b"y")
    out = cli.folder / "out"
    told = await cli.run("save", TURN, str(out))
    assert told.stdout.splitlines() == [
        f"saved {out}/main.py: 1 B",
        f"saved {out}/src/a.py: 1 B",
        f"2 files under {out}",
    ]
    assert (out / "src" / "a.py").read_bytes() == b"y"
    assert told.stderr == ""


async def test_a_turn_that_runs_may_bring_more_files(cli: Cli) -> None:
    cli.shelf.put("main.py", b"x")
    cli.stack.conversations.turns[TURN][1].ClearField("outcome")
    told = await cli.run("save", TURN, str(cli.folder / "out"))
    assert (told.exit_code, len(told.stdout.splitlines())) == (0, 2)
    assert "more files may come" in told.stderr


async def test_what_is_in_the_way_is_named_with_what_to_do(cli: Cli) -> None:
    cli.shelf.put("main.py", b"x")
    out = cli.folder / "out"
    out.mkdir()
    (out / "main.py").write_text("mine")
    refused = await cli.run("save", TURN, str(out))
    assert refused.exit_code == 1
    assert "main.py is there, with other content" in " ".join(refused.stderr.split())
    assert "--overwrite" in refused.stderr
    assert (await cli.run("save", TURN, str(out), "--overwrite")).exit_code == 0
    assert (out / "main.py").read_text() == "x"


async def test_errors_have_their_exit_status(cli: Cli) -> None:
    assert (await cli.run("get", "x" * 48)).exit_code == 4
    assert (await cli.run("get", "x")).exit_code == 2
    cli.shelf.put("../x", b"x")
    refused = await cli.run("save", TURN, str(cli.folder / "out"))
    assert refused.exit_code == 1
    assert "not safe" in refused.stderr
