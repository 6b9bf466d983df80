"""`maieutic admin dead`: messages between the services that could not be read."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from maieutic_client.cli.as_json import json_option
from maieutic_client.cli.commands import Group
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen, dump, size, when
from maieutic_client.cli.target import Target, connected, target_options

HEADINGS = ("ID", "QUEUE", "KEY", "WHY", "SIZE", "SINCE", "REDRIVEN")


@click.group(cls=Group)
def dead() -> None:
    """Look at messages that could not be read, publish them again, or drop them.

    A message that its consumer could not read, or that no consumer survived, is kept for 30 days.
    """


def _filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    reason = click.option("--reason", default="", help="Only those with this in their reason.")
    key = click.option("--routing-key", default="", help="Only those of this routing key.")
    return key(reason(command))


def _choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    everything = click.option("--all", "everything", is_flag=True, help="All not yet redriven.")
    ids = click.argument("letter_ids", nargs=-1, metavar="[LETTER_ID]…")
    return ids(everything(_filter_options(command)))


@dead.command("list")
@click.option("--redriven", is_flag=True, help="Also those that were redriven.")
@_filter_options
@json_option
@target_options
def list_letters(
    *, target: Target, routing_key: str, reason: str, redriven: bool, as_json: bool
) -> None:
    """Show the dead letters, the latest first."""
    wanted = pb.DeadLetterFilter(routing_key=routing_key, reason=reason)
    run(_list(target, wanted, with_redriven=redriven, as_json=as_json))


@dead.command("show")
@click.argument("letter_id")
@click.option("--content", is_flag=True, help="Also the content, which may have what users wrote.")
@target_options
def show(*, target: Target, letter_id: str, content: bool) -> None:
    """Show one dead letter."""
    run(_show(target, letter_id, content=content))


@dead.command("redrive")
@click.option("--dry-run", is_flag=True, help="Only tell what would be published, and where.")
@_choice_options
@target_options
def redrive(*, target: Target, letter_ids: tuple[str, ...], dry_run: bool, **choice: Any) -> None:
    """Publish dead letters again to where they came from.

    Name letters, or choose with --routing-key, --reason or --all.
    """
    run(_redrive(target, letter_ids, _chosen(letter_ids, **choice), dry_run=dry_run))


@dead.command("drop")
@_choice_options
@target_options
def drop(*, target: Target, letter_ids: tuple[str, ...], **choice: Any) -> None:
    """Remove dead letters for good.

    Name letters, or choose with --routing-key, --reason or --all.
    """
    run(_drop(target, letter_ids, _chosen(letter_ids, **choice)))


def _chosen(
    letter_ids: Sequence[str], *, routing_key: str, reason: str, everything: bool
) -> pb.DeadLetterFilter | None:
    """Return the filter, None if letters are named. Raises click.UsageError."""
    if bool(letter_ids) == bool(routing_key or reason or everything):
        raise click.UsageError("name letters, or choose with --routing-key, --reason or --all")
    return None if letter_ids else pb.DeadLetterFilter(routing_key=routing_key, reason=reason)


async def _list(
    target: Target, wanted: pb.DeadLetterFilter, *, with_redriven: bool, as_json: bool
) -> None:
    async with connected(target) as client:
        listed = client.dead_letters.list(filter=wanted, with_redriven=with_redriven)
        found = [letter async for letter in listed]
    Screen().records(found, HEADINGS, _row, as_json=as_json, none="no dead letters")


def _row(letter: pb.DeadLetter) -> tuple[str, ...]:
    return (
        letter.letter_id,
        letter.queue,
        letter.routing_key,
        letter.reason,
        size(letter.size),
        when(letter.create_time),
        when(letter.redrive_time),
    )


async def _show(target: Target, letter_id: str, *, content: bool) -> None:
    async with connected(target) as client:
        answer = await client.dead_letters.get(letter_id, with_content=content)
    letter, screen = answer.letter, Screen()
    rows = [
        ("id", letter.letter_id),
        ("message", letter.message_id),
        ("exchange", letter.exchange),
        ("routing key", letter.routing_key),
        ("queue", letter.queue),
        ("why", letter.reason),
        ("size", size(letter.size) + (", kept in part" if letter.cut else "")),
        ("redriven before", str(letter.redrive_count)),
        ("since", when(letter.create_time)),
        ("until", when(letter.expire_time)),
        ("redriven", when(letter.redrive_time)),
        *((f"header {name}", value) for name, value in sorted(answer.headers.items())),
        ("first bytes", answer.first_bytes.hex(" ")),
    ]
    screen.table(("FIELD", "VALUE"), [row for row in rows if row[1]])
    for line in dump(answer.content):
        screen.line(line)


async def _redrive(
    target: Target,
    letter_ids: Sequence[str],
    wanted: pb.DeadLetterFilter | None,
    *,
    dry_run: bool,
) -> None:
    doing, screen = "would publish" if dry_run else "published", Screen()
    async with connected(target) as client:
        answer = await client.dead_letters.redrive(letter_ids, filter=wanted, dry_run=dry_run)
    for letter in answer.letters:
        place = f"{letter.exchange} {letter.routing_key}"
        screen.line(f"{doing} {letter.letter_id} to {place}: message {letter.message_id}")
    if answer.remaining_count:
        # Not at once: what dies again would be redriven without end.
        screen.aside(f"{answer.remaining_count} more match: look at these, then do it again")
    elif not answer.letters:
        screen.aside("nothing to redrive")


async def _drop(
    target: Target, letter_ids: Sequence[str], wanted: pb.DeadLetterFilter | None
) -> None:
    async with connected(target) as client:
        for letter_id in letter_ids:
            await client.dead_letters.get(letter_id)  # dropping alone tells no slip in the id
        count = await client.dead_letters.drop(letter_ids, filter=wanted)
    Screen().line(f"dropped {count}")
