"""`maieutic artifacts`: the files that agents have made."""

import asyncio
import unicodedata
from pathlib import Path

import click

from maieutic.v1.artifact_pb2 import Artifact
from maieutic_client.cli.as_json import json_option
from maieutic_client.cli.commands import Group
from maieutic_client.cli.running import Exit, run
from maieutic_client.cli.screen import Screen, size, when
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.client import Maieutic

BREAKS = "\n\t"


@click.group(cls=Group)
def artifacts() -> None:
    """List, show and save the files that agents have made."""


@artifacts.command("list")
@click.argument("session_id", default="")
@click.option("--turn", "turn_id", default="", metavar="ID", help="Of this turn only.")
@json_option
@target_options
def list_artifacts(*, target: Target, session_id: str, turn_id: str, as_json: bool) -> None:
    """Show the files of a conversation or a turn, the oldest first."""
    if not (session_id or turn_id):
        raise click.UsageError("give a SESSION_ID, or --turn")
    run(_list(target, session_id, turn_id, as_json=as_json))


@artifacts.command("get")
@click.argument("artifact_id")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file instead of standard output.",
)
@target_options
def get(*, target: Target, artifact_id: str, output: Path | None) -> None:
    """Write one file to standard output."""
    run(_get(target, artifact_id, output))


@artifacts.command("save")
@click.argument("turn_id")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--overwrite", is_flag=True, help="Also where a file has other content.")
@target_options
def save(*, target: Target, turn_id: str, folder: Path, overwrite: bool) -> None:
    """Write all files of a turn under a folder, and nowhere else."""

    async def work() -> int:
        screen = Screen()
        async with connected(target) as client:
            # Before the files are listed: of a turn that has ended by now those are all.
            ended = (await client.turns.get(turn_id)).HasField("outcome")
            status = await save_files(screen, client, turn_id, folder, overwrite=overwrite)
        if not ended:
            screen.aside("the turn had not ended: more files may come, save them again then")
        return status

    run(work())


async def _list(target: Target, session_id: str, turn_id: str, *, as_json: bool) -> None:
    async with connected(target) as client:
        listed = client.artifacts.list(session_id or None, turn_id=turn_id)
        found = [artifact async for artifact in listed]
    headings = ("ID", "PATH", "SIZE", "TYPE", "TURN", "MADE")
    none = "no files: `maieutic code` has some written"
    Screen().records(found, headings, _row, as_json=as_json, none=none)


def _row(artifact: Artifact) -> tuple[str, ...]:
    return (
        artifact.artifact_id,
        artifact.path,
        size(artifact.size_bytes),
        artifact.media_type,
        artifact.turn_id,
        when(artifact.create_time),
    )


async def _get(target: Target, artifact_id: str, output: Path | None) -> int:
    screen = Screen()
    async with connected(target) as client:
        content = await client.artifacts.download(artifact_id)
    if output is not None:
        await asyncio.to_thread(output.write_bytes, content)
        screen.line(f"wrote {output}: {size(len(content))}")
    elif screen.rich and not _is_text(content):
        screen.problem("error: the file is not plain text: write it with --output FILE")
        return Exit.FAILED
    else:
        click.echo(content, nl=False)
    return Exit.DONE


def _is_text(content: bytes) -> bool:
    """Whether a terminal shows this and does nothing else."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return all(one in BREAKS or unicodedata.category(one)[0] != "C" for one in text)


async def save_files(
    screen: Screen, client: Maieutic, turn_id: str, folder: Path, *, overwrite: bool
) -> int:
    """Write a turn's files under a folder; returns the status to leave with."""
    count = 0
    try:
        with screen.progress("saving", 0) as steps:
            async for saved in client.artifacts.save(turn_id, folder, overwrite=overwrite):
                steps.of(saved.total)
                steps.at(saved.artifact.path)
                steps.done()
                count = saved.number
                screen.line(f"saved {saved.path}: {size(saved.artifact.size_bytes)}")
    except OSError as error:
        screen.problem(f"error: {error}")
        if isinstance(error, FileExistsError):
            screen.aside("with --overwrite it is replaced")
        return Exit.FAILED
    screen.line(f"{count} files under {folder}", style="green")
    return Exit.DONE
