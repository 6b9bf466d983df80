"""`maieutic sessions`: what was talked about."""

import click

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.message_pb2 import AUTHOR_USER
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen, when
from maieutic_client.cli.target import Target, connected, target_options

MODES = {pb.SESSION_MODE_DIRECT: "direct", pb.SESSION_MODE_SOCRATIC: "socratic"}


@click.group()
def sessions() -> None:
    """List conversations, and read or delete one."""


@sessions.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most.")
@target_options
def list_sessions(*, target: Target, limit: int) -> None:
    """Show your conversations, newest first."""
    run(_list(target, limit))


@sessions.command("show")
@click.argument("session_id")
@target_options
def show(*, target: Target, session_id: str) -> None:
    """Print the messages of a conversation, oldest first."""
    run(_show(target, session_id))


@sessions.command("delete")
@click.argument("session_id")
@target_options
def delete(*, target: Target, session_id: str) -> None:
    """Delete a conversation with all of its messages."""
    run(_delete(target, session_id))


async def _list(target: Target, limit: int) -> None:
    rows = []
    async with connected(target) as client:
        async for session in client.sessions.list(page_size=min(limit, 200)):
            rows.append(_row(session))
            if len(rows) == limit:
                break
    screen = Screen()
    screen.table(("ID", "TITLE", "MODE", "MESSAGES", "LAST USED"), rows)
    if not rows:
        screen.aside("no conversations yet: `maieutic chat` begins one")


def _row(session: pb.Session) -> tuple[str, ...]:
    return (
        session.session_id,
        session.title or "-",
        MODES.get(session.mode, "-"),
        str(session.message_count),
        when(session.last_used_time) or when(session.create_time),
    )


async def _show(target: Target, session_id: str) -> None:
    screen = Screen()
    async with connected(target) as client:
        messages = [message async for message in client.sessions.messages(session_id)]
    for message in reversed(messages):
        user = message.author == AUTHOR_USER
        screen.line("you:" if user else "maieutic:", style="bold cyan" if user else "bold green")
        screen.line(message.text)
        screen.line()


async def _delete(target: Target, session_id: str) -> None:
    async with connected(target) as client:
        await client.sessions.delete(session_id)
    Screen().line(f"deleted {session_id}")
