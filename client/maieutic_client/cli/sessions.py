"""`maieutic sessions`: what was talked about."""

from collections.abc import Iterator

import click

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.budget_pb2 import Budget, Spending
from maieutic.v1.message_pb2 import AUTHOR_USER
from maieutic_client.cli.as_json import json_line, json_option
from maieutic_client.cli.budgets import amount, budget_options
from maieutic_client.cli.commands import Group
from maieutic_client.cli.outcomes import state_name
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen, when
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.cli.watching import watch
from maieutic_client.session_ids import session_id_of

MODES = {pb.SESSION_MODE_DIRECT: "direct", pb.SESSION_MODE_SOCRATIC: "socratic"}
MODE_OF = {name: mode for mode, name in MODES.items()}
ORDERS = {
    "newest": pb.SESSION_ORDER_NEWEST_FIRST,
    "oldest": pb.SESSION_ORDER_OLDEST_FIRST,
    "used": pb.SESSION_ORDER_LAST_USED_FIRST,
}


@click.group(cls=Group)
def sessions() -> None:
    """Conversations: list, read, watch, change, branch, end, delete."""


sessions.add_command(watch)


@sessions.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most.")
@click.option(
    "--order",
    type=click.Choice(list(ORDERS)),
    default="newest",
    show_default=True,
    help="Which come first.",
)
@click.option("--mode", type=click.Choice(list(MODE_OF)), help="Only those of this mode.")
@click.option("--document", "document_id", default="", metavar="ID", help="Only those over it.")
@json_option
@target_options
def list_sessions(
    *, target: Target, limit: int, order: str, mode: str | None, document_id: str, as_json: bool
) -> None:
    """Show your conversations."""
    matching = pb.SessionFilter(document_id=document_id)
    if mode:
        matching.mode = MODE_OF[mode]
    run(_list(target, limit, ORDERS[order], matching, as_json=as_json))


@sessions.command("show")
@click.argument("session_id")
@json_option
@target_options
def show(*, target: Target, session_id: str, as_json: bool) -> None:
    """Print the messages of a conversation, oldest first."""
    run(_show(target, session_id, as_json=as_json))


@sessions.command("update")
@click.argument("session_id")
@click.option("--title", help="Its new title.")
@click.option("--mode", type=click.Choice(list(MODE_OF)), help="How it treats you from now on.")
@click.option("--no-budget", is_flag=True, help="Let its turns consume what they need.")
@budget_options
@target_options
def update(
    *,
    target: Target,
    session_id: str,
    title: str | None,
    mode: str | None,
    no_budget: bool,
    budget: Budget | None,
) -> None:
    """Change the title, the mode or the budget of a conversation."""
    if no_budget and budget is not None:
        raise click.UsageError("give it a budget or none, not both")
    budget = Budget() if no_budget else budget
    if title is None and mode is None and budget is None:
        raise click.UsageError("say what to change: --title, --mode, or its budget")
    run(_update(target, session_id, title, MODE_OF[mode] if mode else None, budget))


@sessions.command("end")
@click.argument("session_id")
@target_options
def end(*, target: Target, session_id: str) -> None:
    """Let nothing more be asked in a conversation; it can still be read."""
    run(_end(target, session_id))


@sessions.command("branch")
@click.argument("session_id")
@click.argument("message_id")
@click.option("--title", default="", help="The branch's title; without it: the conversation's.")
@target_options
def branch(*, target: Target, session_id: str, message_id: str, title: str) -> None:
    """Begin a conversation with another one's messages up to MESSAGE_ID."""
    run(_branch(target, session_id, message_id, title))


@sessions.command("stats")
@click.argument("session_id")
@json_option
@target_options
def stats(*, target: Target, session_id: str, as_json: bool) -> None:
    """Show what a conversation has consumed."""
    run(_stats(target, session_id, as_json=as_json))


@sessions.command("delete")
@click.argument("session_id")
@target_options
def delete(*, target: Target, session_id: str) -> None:
    """Delete a conversation with all of its messages."""
    run(_delete(target, session_id))


async def _list(
    target: Target,
    limit: int,
    order: pb.SessionOrder.ValueType,
    matching: pb.SessionFilter,
    *,
    as_json: bool,
) -> None:
    found = []
    async with connected(target) as client:
        listed = client.sessions.list(order=order, matching=matching, page_size=min(limit, 200))
        async for session in listed:
            found.append(session)
            if len(found) == limit:
                break
    headings = ("ID", "TITLE", "MODE", "MESSAGES", "LAST USED")
    none = "no conversations yet: `maieutic chat` begins one"
    Screen().records(found, headings, _row, as_json=as_json, none=none)


def _row(session: pb.Session) -> tuple[str, ...]:
    return (
        session_id_of(session),
        session.title or "-",
        MODES.get(session.mode, "-"),
        str(session.message_count),
        when(session.last_used_time) or when(session.create_time),
    )


async def _show(target: Target, session_id: str, *, as_json: bool) -> None:
    screen = Screen()
    async with connected(target) as client:
        messages = [message async for message in client.sessions.messages(session_id)]
    for message in reversed(messages):
        if as_json:
            click.echo(json_line(message))
            continue
        user = message.author == AUTHOR_USER
        screen.line("you:" if user else "maieutic:", style="bold cyan" if user else "bold green")
        screen.line(message.text)
        screen.line()


async def _update(
    target: Target,
    session_id: str,
    title: str | None,
    mode: pb.SessionMode.ValueType | None,
    budget: Budget | None,
) -> None:
    async with connected(target) as client:
        session = await client.sessions.update(session_id, title=title, mode=mode, budget=budget)
    Screen().line(f"updated {session_id_of(session)}")


async def _end(target: Target, session_id: str) -> None:
    async with connected(target) as client:
        session = await client.sessions.end(session_id)
    Screen().line(f"ended {session_id_of(session)}")


async def _branch(target: Target, session_id: str, message_id: str, title: str) -> None:
    async with connected(target) as client:
        session = await client.sessions.branch(session_id, message_id, title=title)
    Screen().line(f"branched {session_id_of(session)}")


async def _stats(target: Target, session_id: str, *, as_json: bool) -> None:
    async with connected(target) as client:
        found = await client.sessions.statistics(session_id)
        session = await client.sessions.get(session_id)
    if as_json:
        click.echo(json_line(found))
        return
    rows = [
        ("messages", str(found.message_count)),
        ("documents", str(found.document_count)),
        *((f"turns {state_name(turns.state)}", str(turns.count)) for turns in found.turns),
        ("retries", str(found.retry_count)),
        ("seconds", f"{found.total_duration.ToMilliseconds() / 1000:.1f}"),
        *((f"tokens into {used.model}", str(used.input_tokens)) for used in found.usage),
        *((f"tokens out of {used.model}", str(used.output_tokens)) for used in found.usage),
        *((f"cost of {used.model}", _cost(used)) for used in found.usage),
        *_budget(session.budget, session.spending),
    ]
    Screen().table(("OF", "IS"), rows)


def _cost(used: pb.ModelUsage) -> str:
    known = used.HasField("cost_micros")
    return f"{amount(used.cost_micros)} {used.currency}" if known else "unknown"


def _budget(budget: Budget, spent: Spending) -> Iterator[tuple[str, str]]:
    if budget.HasField("tokens"):
        yield "tokens of the budget", f"{spent.tokens} of {budget.tokens}"
    if budget.HasField("cost_micros"):
        used, whole = amount(spent.cost_micros), amount(budget.cost_micros)
        yield "money of the budget", f"{used} of {whole} {budget.currency}"


async def _delete(target: Target, session_id: str) -> None:
    async with connected(target) as client:
        await client.sessions.delete(session_id)
    Screen().line(f"deleted {session_id}")
