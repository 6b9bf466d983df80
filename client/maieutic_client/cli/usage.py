"""`maieutic usage`: what calls of models have consumed and cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

import click

from maieutic.v1 import usage_service_pb2 as pb
from maieutic.v1.turn_service_pb2 import TurnKind
from maieutic_client.cli.as_json import json_line, json_option
from maieutic_client.cli.budgets import amount
from maieutic_client.cli.commands import Command
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.cli.values import spoken

KEYS: Mapping[str, tuple[pb.UsageKey.ValueType, Callable[[pb.UsageRow], str]]] = MappingProxyType(
    {
        "day": (pb.USAGE_KEY_DAY, lambda row: row.day),
        "model": (pb.USAGE_KEY_MODEL, lambda row: row.model),
        "step": (pb.USAGE_KEY_STEP, lambda row: row.step),
        "kind": (pb.USAGE_KEY_KIND, lambda row: _kind(row.kind)),
        "session": (pb.USAGE_KEY_SESSION, lambda row: row.session_id),
        "user": (pb.USAGE_KEY_USER, lambda row: row.user_id),
    }
)
HEADINGS = ("CALLS", "TURNS", "IN", "CACHED", "CACHE WRITE", "OUT", "COST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the options say beyond the backend."""

    session_id: str | None
    turn_id: str | None
    tenant: str | None
    since: datetime | None
    until: datetime | None
    by: Sequence[str]


def _keys(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    for name in names:
        if name not in KEYS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(KEYS)}")
    return list(dict.fromkeys(names))


@click.command("usage", cls=Command)
@click.option("--session", "session_id", metavar="ID", help="Only of this conversation.")
@click.option("--turn", "turn_id", metavar="ID", help="Only of this turn.")
@click.option(
    "--tenant",
    metavar="[NAME]",
    is_flag=False,
    flag_value="",
    help="Of all users, or of --user, in the key's tenant or in this one; for admins.",
)
@click.option("--since", type=click.DateTime(), help="From then on, in UTC: 2026-11-01.")
@click.option("--until", type=click.DateTime(), help="Until before then, in UTC.")
@click.option(
    "--by",
    default="model",
    show_default=True,
    callback=_keys,
    help=f"A row for each of: {', '.join(KEYS)}; several with commas.",
)
@json_option
@target_options
def usage(*, target: Target, as_json: bool, **options: object) -> None:
    """Show how many tokens models took, and what that cost.

    A turn is in it within seconds of its end, and stays when its conversation is deleted.
    """
    wanted = Wanted(**options)  # type: ignore[arg-type] # the options above, by their names
    if wanted.session_id and wanted.turn_id:
        raise click.UsageError("give --session or --turn, not both")
    if wanted.tenant is not None and target.user and (wanted.session_id or wanted.turn_id):
        raise click.UsageError("with --tenant give one of --user, --session and --turn")
    run(_usage(target, wanted, as_json=as_json))


async def _usage(target: Target, wanted: Wanted, *, as_json: bool) -> None:
    found, screen = await _asked(target, wanted), Screen()
    if as_json:
        click.echo(json_line(found))
        return
    headings = (*(name.upper() for name in wanted.by), *HEADINGS)
    screen.table(headings, [_row(row, wanted.by) for row in found.rows])
    calls, turns, *tokens, cost = _cells(found.total)
    read, written = tokens[0], tokens[-1]
    screen.aside(f"in all {calls} calls of {turns} turns: {read} in, {written} out, {cost}")


async def _asked(target: Target, wanted: Wanted) -> pb.GetUsageResponse:
    keys = [KEYS[name][0] for name in wanted.by]
    if wanted.tenant is None:
        async with connected(target) as client:
            return await client.usage.get(
                session=wanted.session_id,
                turn_id=wanted.turn_id,
                since=wanted.since,
                until=wanted.until,
                group_by=keys,
            )
    # An admin asks about the user, and does not act for the user.
    async with connected(replace(target, user=None)) as client:
        return await client.usage.get_tenant(
            wanted.tenant,
            user=target.user,
            session=wanted.session_id,
            turn_id=wanted.turn_id,
            since=wanted.since,
            until=wanted.until,
            group_by=keys,
        )


def _row(row: pb.UsageRow, by: Sequence[str]) -> list[str]:
    return [*(KEYS[name][1](row) or "unknown" for name in by), *_cells(row.total)]


def _cells(total: pb.UsageTotal) -> list[str]:
    counts = (
        total.call_count,
        total.turn_count,
        total.input_tokens,
        total.cached_tokens,
        total.cache_write_tokens,
        total.output_tokens,
    )
    return [*map(str, counts), _cost(total)]


def _cost(total: pb.UsageTotal) -> str:
    """Return the sums, and of how many calls nobody knows the cost."""
    parts = [f"{amount(cost.micros)} {cost.currency}" for cost in total.costs]
    if total.unknown_cost_call_count:
        parts.append(f"{total.unknown_cost_call_count} calls of unknown cost")
    return ", ".join(parts) or "nothing"


def _kind(kind: TurnKind.ValueType) -> str:
    """Return a turn's kind as people say it; nothing where it was not kept."""
    return spoken(TurnKind.DESCRIPTOR, kind) if kind else ""
