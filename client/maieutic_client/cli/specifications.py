"""`maieutic specs`: what agents have understood from a conversation."""

import click

from maieutic.v1 import specification_pb2 as pb
from maieutic_client.cli.as_json import json_line, json_option
from maieutic_client.cli.commands import Group
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen, when
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.cli.values import spoken

KEEP = {
    "first": pb.RESOLUTION_KIND_KEEP_FIRST,
    "second": pb.RESOLUTION_KIND_KEEP_SECOND,
    "both": pb.RESOLUTION_KIND_KEEP_BOTH,
}


@click.group(cls=Group)
def specs() -> None:
    """See what was understood, and decide conflicts."""


@specs.command("list")
@click.argument("session_id")
@click.option("--all", "withdrawn", is_flag=True, help="Also what was withdrawn.")
@json_option
@target_options
def list_specifications(*, target: Target, session_id: str, withdrawn: bool, as_json: bool) -> None:
    """Show what the user has settled."""
    run(_list(target, session_id, withdrawn=withdrawn, as_json=as_json))


@specs.command("conflicts")
@click.argument("session_id")
@click.option("--all", "closed", is_flag=True, help="Also those that are decided.")
@json_option
@target_options
def conflicts(*, target: Target, session_id: str, closed: bool, as_json: bool) -> None:
    """Show what does not go together and is to be decided."""
    run(_conflicts(target, session_id, closed=closed, as_json=as_json))


@specs.command("questions")
@click.argument("session_id")
@json_option
@target_options
def questions(*, target: Target, session_id: str, as_json: bool) -> None:
    """Show what agents have asked, oldest first."""
    run(_questions(target, session_id, as_json=as_json))


@specs.command("summary")
@click.argument("session_id")
@json_option
@target_options
def summary(*, target: Target, session_id: str, as_json: bool) -> None:
    """Show what agents are given of the conversation's older part."""
    run(_summary(target, session_id, as_json=as_json))


@specs.command("resolve")
@click.argument("session_id")
@click.argument("conflict_id")
@click.option("--keep", type=click.Choice(list(KEEP)), help="Which side holds.")
@click.option("--replace", metavar="VALUE", default="", help="What holds instead of both.")
@target_options
def resolve(
    *, target: Target, session_id: str, conflict_id: str, keep: str | None, replace: str
) -> None:
    """Decide a conflict, once and for all."""
    if bool(keep) == bool(replace):
        raise click.UsageError("say --keep first, second or both, or --replace VALUE")
    kind = KEEP[keep] if keep else pb.RESOLUTION_KIND_REPLACE
    run(_resolve(target, session_id, conflict_id, kind, replace))


async def _list(target: Target, session_id: str, *, withdrawn: bool, as_json: bool) -> None:
    async with connected(target) as client:
        listed = client.specifications.list(session_id, include_withdrawn=withdrawn)
        found = [one async for one in listed]
    Screen().records(
        found,
        ("CATEGORY", "KEY", "VALUE", "STATE"),
        lambda one: (one.category, one.key, one.value, "withdrawn" if one.withdrawn else ""),
        as_json=as_json,
        none="nothing is settled yet: `maieutic chat --mode socratic` asks what you want",
    )


async def _conflicts(target: Target, session_id: str, *, closed: bool, as_json: bool) -> None:
    async with connected(target) as client:
        listed = client.specifications.conflicts(session_id, include_closed=closed)
        found = [one async for one in listed]
    Screen().records(
        found,
        ("ID", "SEVERITY", "FIRST", "SECOND", "DECIDED"),
        _conflict_row,
        as_json=as_json,
        none="no conflicts" if closed else "no conflicts to decide",
    )


def _conflict_row(conflict: pb.Conflict) -> tuple[str, ...]:
    return (
        conflict.conflict_id,
        spoken(pb.ConflictSeverity.DESCRIPTOR, conflict.severity),
        conflict.first.value,
        conflict.second.value,
        _decided(conflict.resolution.kind),
    )


async def _questions(target: Target, session_id: str, *, as_json: bool) -> None:
    async with connected(target) as client:
        found = [one async for one in client.specifications.questions(session_id)]
    Screen().records(
        found,
        ("ASKED", "QUESTION"),
        lambda one: (when(one.create_time), one.text),
        as_json=as_json,
        none="nothing was asked yet: `maieutic chat --mode socratic` asks",
    )


async def _summary(target: Target, session_id: str, *, as_json: bool) -> None:
    screen = Screen()
    async with connected(target) as client:
        found = await client.specifications.summary(session_id)
    if found is None:
        screen.aside("no summary yet: agents are given all that was said")
    elif as_json:
        click.echo(json_line(found))
    else:
        screen.aside(f"{found.message_count} messages, {when(found.create_time)}")
        screen.line(found.text)


async def _resolve(
    target: Target, session_id: str, conflict_id: str, kind: pb.ResolutionKind.ValueType, value: str
) -> None:
    async with connected(target) as client:
        await client.specifications.resolve(session_id, conflict_id, kind, value=value)
    Screen().line(f"resolved {conflict_id}")


def _decided(kind: pb.ResolutionKind.ValueType) -> str:
    return spoken(pb.ResolutionKind.DESCRIPTOR, kind) if kind else ""
