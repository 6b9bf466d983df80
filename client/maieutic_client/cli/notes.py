"""`maieutic notes`: texts of your own beside a conversation."""

import click

from maieutic_client.cli.as_json import json_option
from maieutic_client.cli.commands import Group
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen, when
from maieutic_client.cli.target import Target, connected, target_options


@click.group(cls=Group)
def notes() -> None:
    """Keep notes with a conversation."""


@notes.command("add")
@click.argument("session_id")
@click.argument("text")
@target_options
def add(*, target: Target, session_id: str, text: str) -> None:
    """Add a note to a conversation."""
    run(_add(target, session_id, text))


@notes.command("list")
@click.argument("session_id")
@json_option
@target_options
def list_notes(*, target: Target, session_id: str, as_json: bool) -> None:
    """Show a conversation's notes, oldest first."""
    run(_list(target, session_id, as_json=as_json))


@notes.command("delete")
@click.argument("session_id")
@click.argument("note_id")
@target_options
def delete(*, target: Target, session_id: str, note_id: str) -> None:
    """Delete a note."""
    run(_delete(target, session_id, note_id))


async def _add(target: Target, session_id: str, text: str) -> None:
    async with connected(target) as client:
        note = await client.notes.add(session_id, text)
    Screen().line(f"added {note.note_id}")


async def _list(target: Target, session_id: str, *, as_json: bool) -> None:
    async with connected(target) as client:
        found = [note async for note in client.notes.list(session_id)]
    Screen().records(
        found,
        ("ID", "ADDED", "TEXT"),
        lambda note: (note.note_id, when(note.create_time), note.text),
        as_json=as_json,
        none="no notes yet: `maieutic notes add` adds one",
    )


async def _delete(target: Target, session_id: str, note_id: str) -> None:
    async with connected(target) as client:
        await client.notes.delete(session_id, note_id)
    Screen().line(f"deleted {note_id}")
