"""`maieutic analyze`: how documents support an answer."""

from collections.abc import Iterable

import click

from maieutic.v1 import message_pb2, support_pb2 as pb, turn_service_pb2 as turn_pb
from maieutic.v1.budget_pb2 import Budget
from maieutic_client.cli.as_json import json_line, json_option
from maieutic_client.cli.budgets import budget_options
from maieutic_client.cli.commands import Command
from maieutic_client.cli.interrupts import interrupt_cancels
from maieutic_client.cli.outcomes import ending
from maieutic_client.cli.running import Exit, run
from maieutic_client.cli.screen import Screen
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.cli.values import spoken
from maieutic_client.client import Maieutic
from maieutic_client.stream import TurnStream


@click.command(cls=Command)
@click.argument("session_id")
@click.argument("text", required=False, default="")
@click.option(
    "--collection",
    default="",
    metavar="NAME",
    help="Whose documents; without it: the conversation's.",
)
@click.option("--turn", "turn_id", default="", metavar="ID", help="Look at this turn's answer.")
@json_option
@budget_options
@target_options
def analyze(
    *,
    target: Target,
    session_id: str,
    text: str,
    collection: str,
    turn_id: str,
    as_json: bool,
    budget: Budget | None,
) -> None:
    """See how documents support an answer.

    The answer is TEXT, that of a turn, or else the last one of the conversation. Ctrl-C stops
    looking.
    """
    if text and turn_id:
        raise click.UsageError("say TEXT or --turn ID, not both")

    async def work() -> int:
        screen = Screen()
        async with connected(target) as client:
            answered = "" if text else turn_id or await _last_answered(client, session_id)
            stream = client.turns.analyze(
                session_id, text=text, turn_id=answered, collection=collection, budget=budget
            )
            with interrupt_cancels(client, stream):
                outcome = await _watched(screen, stream)
        if outcome.state != turn_pb.TURN_STATE_COMPLETED:
            screen.problem(ending(outcome))
            return Exit.FAILED
        report = outcome.findings.support
        if as_json:
            click.echo(json_line(report))
        else:
            _show(screen, report)
        return Exit.DONE

    run(work())


async def _last_answered(client: Maieutic, session_id: str) -> str:
    """Return the turn of the session's last answer."""
    async for message in client.sessions.messages(session_id):
        if message.author == message_pb2.AUTHOR_AGENT and message.turn_id:
            return message.turn_id
    raise click.UsageError("the conversation has no answer yet: say TEXT")


async def _watched(screen: Screen, stream: TurnStream) -> turn_pb.TurnOutcome:
    async for frame in stream:
        if frame.HasField("notice"):
            screen.aside(frame.notice.text or frame.notice.code.lower())
    return await stream.result()


def _show(screen: Screen, report: pb.SupportReport) -> None:
    rows = [
        (
            spoken(pb.Verdict.DESCRIPTOR, claim.verdict),
            claim.text,
            _cited(claim.supporting),
            _cited(claim.contradicting),
        )
        for claim in report.claims
    ]
    screen.table(("VERDICT", "CLAIM", "SUPPORTED BY", "CONTRADICTED BY"), rows)
    uncited = [one.document_name for one in report.documents if not one.citations]
    screen.aside(_summary(report))
    if uncited:
        screen.aside(f"never cited: {', '.join(uncited)}")


def _summary(report: pb.SupportReport) -> str:
    coverage, count = report.coverage, len(report.claims)
    shares = ", ".join(
        f"{getattr(coverage, name):.0%} {name}"
        for name in ("supported", "contradicted", "mixed", "unsupported")
    )
    place = f"of {report.collection}" if report.collection else "of the conversation"
    claims = f"{count} claim{'' if count == 1 else 's'}"
    return f"{claims}: {shares}; {report.documents_searched} documents {place} searched"


def _cited(citations: Iterable[message_pb2.Citation]) -> str:
    return "; ".join(f"{one.document_name}: “{one.quote}”" for one in citations)
