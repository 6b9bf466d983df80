"""`maieutic admin`: what those who run the backend need."""

from collections.abc import Sequence

import click

from maieutic.v1 import admin_service_pb2 as pb
from maieutic_client.cli.as_json import json_option
from maieutic_client.cli.commands import Group
from maieutic_client.cli.dead_letters import dead
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen, dump, size, when
from maieutic_client.cli.target import Target, connected, target_options

KINDS = {
    pb.RECORD_KIND_SESSION: "session",
    pb.RECORD_KIND_MESSAGES: "messages",
    pb.RECORD_KIND_ANNOTATIONS: "notes and bookmarks",
    pb.RECORD_KIND_OPERATION: "request marker",
    pb.RECORD_KIND_TURN: "turn",
    pb.RECORD_KIND_EVENTS: "event log",
}
DAMAGES = {
    pb.RECORD_DAMAGE_WRONG_TYPE: "wrong type",
    pb.RECORD_DAMAGE_VERSION: "unknown version",
    pb.RECORD_DAMAGE_CHECKSUM: "checksum",
    pb.RECORD_DAMAGE_UNPARSABLE: "unparsable",
}


@click.group(cls=Group)
def admin() -> None:
    """Run the backend; needs an admin's API key."""


admin.add_command(dead)


@admin.group()
def quarantine() -> None:
    """Look at stored records that could not be read.

    Each was moved aside and counts as absent; where the archive has a copy, that one took its
    place. A record is kept for 30 days.
    """


@quarantine.command("list")
@json_option
@target_options
def list_records(*, target: Target, as_json: bool) -> None:
    """Show the records in quarantine, the latest first."""
    run(_list(target, as_json=as_json))


@quarantine.command("show")
@click.argument("record_id")
@click.option("--content", is_flag=True, help="Also the content, which may have what users wrote.")
@target_options
def show(*, target: Target, record_id: str, content: bool) -> None:
    """Show one record."""
    run(_show(target, record_id, content=content))


@quarantine.command("drop")
@click.argument("record_ids", nargs=-1, required=True, metavar="RECORD_ID…")
@target_options
def drop(*, target: Target, record_ids: tuple[str, ...]) -> None:
    """Remove records for good."""
    run(_drop(target, record_ids))


async def _list(target: Target, *, as_json: bool) -> None:
    async with connected(target) as client:
        found = [record async for record in client.quarantine.list()]
    headings = ("ID", "KIND", "WHY", "SIZE", "SINCE", "UNTIL")
    none = "nothing is in quarantine"
    Screen().records(found, headings, _row, as_json=as_json, none=none)


def _row(record: pb.QuarantinedRecord) -> tuple[str, ...]:
    return (
        record.record_id,
        KINDS.get(record.kind, "-"),
        DAMAGES.get(record.damage, "-"),
        size(record.size),
        when(record.quarantine_time),
        when(record.expire_time),
    )


async def _show(target: Target, record_id: str, *, content: bool) -> None:
    async with connected(target) as client:
        answer = await client.quarantine.get(record_id, with_content=content)
    record, screen = answer.record, Screen()
    rows = [
        ("id", record.record_id),
        ("kind", KINDS.get(record.kind, "-")),
        ("session", record.session_id),
        ("turn", record.turn_id),
        ("why", DAMAGES.get(record.damage, "-")),
        ("since", when(record.quarantine_time)),
        ("until", when(record.expire_time)),
        ("size", size(record.size)),
        ("value", answer.value_type),
        ("first bytes", answer.first_bytes.hex(" ")),
    ]
    screen.table(("FIELD", "VALUE"), [row for row in rows if row[1]])
    for line in dump(answer.content):
        screen.line(line)


async def _drop(target: Target, record_ids: Sequence[str]) -> None:
    screen = Screen()
    async with connected(target) as client:
        for record_id in record_ids:
            await client.quarantine.get(record_id)  # dropping alone tells no slip in the id
            await client.quarantine.drop(record_id)
            screen.line(f"dropped {record_id}")
