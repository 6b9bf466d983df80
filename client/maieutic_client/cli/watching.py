"""`maieutic sessions watch`: what happens in a conversation, one line each."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import click

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.turn_service_pb2 import TURN_KIND_ASK, TurnKind, TurnOutcome
from maieutic_client.cli.as_json import json_line, json_option
from maieutic_client.cli.commands import Command
from maieutic_client.cli.outcomes import state_name
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.cli.values import spoken

STYLES = {
    "turn_accepted": "cyan",
    "turn_step_finished": "yellow",
    "turn_ended": "green",
    "gap": "red",
    "session_deleted": "red",
}


@click.command("watch", cls=Command)
@click.argument("session_id")
@click.option("--cursor", default="", help="Go on after this place, which `--cursors` shows.")
@click.option("--cursors", is_flag=True, help="Show at the end of each line where to go on.")
@json_option
@target_options
def watch(*, target: Target, session_id: str, cursor: str, cursors: bool, as_json: bool) -> None:
    """Show what happens in a conversation.

    Until it is deleted, or you press Ctrl-C.
    """
    run(_watch(target, session_id, cursor, cursors=cursors, as_json=as_json))


async def _watch(
    target: Target, session_id: str, cursor: str, *, cursors: bool, as_json: bool
) -> None:
    screen = Screen()
    async with (
        connected(target) as client,
        client.sessions.watch(session_id, cursor=cursor) as stream,
    ):
        async for frame in stream:
            if as_json:
                click.echo(json_line(frame))
                continue
            event = frame.WhichOneof("event") or ""
            cells = (event, frame.turn_id or "-", _told(frame), *([frame.cursor] * cursors))
            screen.line("\t".join(cells), style=STYLES.get(event, ""))


def _told(frame: pb.SessionFrame) -> str:
    event = frame.WhichOneof("event")
    if event is None or event not in _TELLING:
        return "-"
    return _TELLING[event](frame)


def _standing(snapshot: pb.SessionSnapshot) -> str:
    return f"{_state(snapshot.current)}, {len(snapshot.turns)} turns under way"


def _state(current: pb.CurrentSession) -> str:
    return f"revision {current.session.revision}, {current.session.message_count} messages"


def _kind(kind: TurnKind.ValueType) -> str:
    return spoken(TurnKind.DESCRIPTOR, kind or TURN_KIND_ASK)


def _step(step: pb.SessionStepFinished) -> str:
    if step.shortened:
        return f"{step.step}: more than can be told here, `maieutic specs` or the outcome has it"
    found = step.findings
    counts = {
        "specifications": len(found.specifications),
        "conflicts": len(found.conflicts),
        "questions": len(found.questions),
        "characters of summary": len(found.summary.text),
        "claims": len(found.support.claims),
        "files planned": len(found.manifest.files),
        "files": len(step.artifacts),
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{step.step}: {told or 'nothing new'}"


def _ended(outcome: TurnOutcome) -> str:
    return f"{state_name(outcome.state)} {outcome.reason}".strip()


_TELLING: Mapping[str, Callable[[pb.SessionFrame], str]] = MappingProxyType(
    {
        "snapshot": lambda frame: _standing(frame.snapshot),
        "gap": lambda frame: _standing(frame.gap.snapshot),
        "turn_accepted": lambda frame: _kind(frame.kind),
        "turn_started": lambda frame: f"attempt {frame.turn_started.attempt}",
        "turn_step_finished": lambda frame: _step(frame.turn_step_finished),
        "turn_ended": lambda frame: _ended(frame.turn_ended.outcome),
        "session_changed": lambda frame: _state(frame.session_changed),
    }
)
"""What each event says, after its name."""
