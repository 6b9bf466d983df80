"""`maieutic code`: files from what was settled in a conversation."""

from pathlib import Path

import click

from maieutic.v1 import turn_service_pb2 as pb
from maieutic.v1.budget_pb2 import Budget
from maieutic_client.cli.artifacts import save_files
from maieutic_client.cli.budgets import budget_options
from maieutic_client.cli.commands import Command
from maieutic_client.cli.interrupts import interrupt_cancels
from maieutic_client.cli.outcomes import ending
from maieutic_client.cli.running import Exit, run
from maieutic_client.cli.screen import Screen, size
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.stream import TurnStream


@click.command(cls=Command)
@click.argument("session_id")
@click.argument("instructions", default="")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files under this folder, and nowhere else.",
)
@click.option("--overwrite", is_flag=True, help="Also where a file has other content.")
@budget_options
@target_options
def code(
    *,
    target: Target,
    session_id: str,
    instructions: str,
    into: Path | None,
    overwrite: bool,
    budget: Budget | None,
) -> None:
    """Have files written from what was settled.

    That is what `maieutic specs list SESSION_ID` shows; INSTRUCTIONS say what is wanted besides.
    Ctrl-C stops the writing: what is finished by then stays.
    """

    async def work() -> int:
        screen = Screen()
        async with connected(target) as client:
            stream = client.turns.generate_code(session_id, instructions, budget=budget)
            with interrupt_cancels(client, stream):
                outcome = await _watched(screen, stream)
            status = _told(screen, outcome)
            if into is not None and outcome.artifacts:
                saved = await save_files(screen, client, stream.turn_id, into, overwrite=overwrite)
                return status or saved
        if outcome.artifacts:
            screen.aside(f"save them with: maieutic artifacts save {stream.turn_id} FOLDER")
        return status

    run(work())


async def _watched(screen: Screen, stream: TurnStream) -> pb.TurnOutcome:
    """Tell of each file once when it begins and once when it is finished."""
    told: set[tuple[int, bool]] = set()
    async for frame in stream:
        if frame.HasField("notice"):
            screen.aside(frame.notice.text or frame.notice.code.lower())
        if frame.HasField("delta"):
            continue
        for file in stream.files.values():
            finished = file.HasField("artifact")
            if (file.index, finished) in told:
                continue
            told.add((file.index, finished))
            place = f"{file.path} ({file.index} of {file.total})"
            if finished:
                screen.aside(f"finished {place}: {size(file.artifact.size_bytes)}")
            else:
                screen.aside(f"writing {place}")
    return await stream.result()


def _told(screen: Screen, outcome: pb.TurnOutcome) -> int:
    """Show the outcome; returns the status to leave with."""
    if outcome.state == pb.TURN_STATE_COMPLETED:
        screen.line(outcome.text)
        return Exit.DONE
    for artifact in outcome.artifacts:
        screen.line(f"- {artifact.path} ({artifact.size_bytes} bytes)")
    screen.problem(ending(outcome))
    return Exit.FAILED
