"""`maieutic chat`: questions in, answers with citations out."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

import click

from maieutic.v1 import session_service_pb2 as pb, turn_service_pb2 as turn_pb
from maieutic.v1.budget_pb2 import Budget
from maieutic_client.cli.beside import Beside, beside
from maieutic_client.cli.budgets import budget_options
from maieutic_client.cli.commands import Command
from maieutic_client.cli.interrupts import interrupt_cancels
from maieutic_client.cli.outcomes import ending
from maieutic_client.cli.running import Exit, run
from maieutic_client.cli.screen import Screen
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.client import Maieutic
from maieutic_client.session_ids import session_id_of
from maieutic_client.stream import TurnStream

MODES = {"direct": pb.SESSION_MODE_DIRECT, "socratic": pb.SESSION_MODE_SOCRATIC}
BUSY = {
    "reject": turn_pb.BUSY_POLICY_REJECT,
    "enqueue": turn_pb.BUSY_POLICY_ENQUEUE,
    "interrupt": turn_pb.BUSY_POLICY_INTERRUPT,
    "rollback": turn_pb.BUSY_POLICY_ROLLBACK,
}
MOST_DOCUMENTS = 100
TITLE_CHARACTERS = 60
QUOTE_CHARACTERS = 160
PROMPT = "you> "
QUIT = "/quit"


@click.command(cls=Command)
@click.argument("question", required=False)
@click.option("--session", "session_id", metavar="ID", help="Go on with this conversation.")
@click.option(
    "--mode",
    type=click.Choice(sorted(MODES)),
    default="direct",
    show_default=True,
    help="How a new conversation treats you.",
)
@click.option(
    "--document",
    "document_ids",
    multiple=True,
    metavar="ID",
    help="Draw answers from this document; may be repeated. Without it: from all of yours.",
)
@click.option(
    "--if-busy",
    type=click.Choice(list(BUSY)),
    default="reject",
    show_default=True,
    help="What to do while another question of this conversation is being answered.",
)
@click.option("--agent", default="", metavar="NAME", help="Let this agent answer, not the mode's.")
@click.option("--no-documents", is_flag=True, help="Draw answers from the conversation alone.")
@budget_options
@target_options
def chat(
    *,
    target: Target,
    budget: Budget | None,
    question: str | None,
    session_id: str | None,
    mode: str,
    document_ids: tuple[str, ...],
    if_busy: str,
    agent: str,
    no_documents: bool,
) -> None:
    """Ask a question, or talk.

    With QUESTION it is answered, and the command leaves. Without one each line is a question. In
    Socratic mode it asks instead, and each line is your answer. A budget is each line's own.

    Ctrl-C stops an answer that is being written, and leaves at the prompt. The answer goes to
    standard output, everything else to standard error unless a terminal is attached. What an
    answer hands on, such as the writing of files, is told when it is done: the end waits for it.
    """

    async def work() -> int:
        async with connected(target) as client:
            screen = Screen()
            if session_id:
                session = await client.sessions.get(session_id)
            else:
                ids = [] if no_documents else list(document_ids) or await _all_documents(client)
                session = await _begun(client, question, MODES[mode], ids)
            _introduce(screen, session)
            questions = _asked(screen) if question is None else _one(question)
            asking = partial(
                client.turns.stream,
                session,
                busy_policy=BUSY[if_busy],
                agent=agent,
                budget=budget,
            )
            opening = None
            if question is None and mode == "socratic" and not (session_id or agent):
                opening = client.turns.next_question(session, budget=budget)
            async with beside(client, screen, session_id_of(session)) as following:
                status = await _talk(client, screen, _turns(opening, questions, asking), following)
            if following.failed:
                status = Exit.FAILED
            return Exit.DONE if question is None and _interactive(screen) else status

    run(work())


async def _all_documents(client: Maieutic) -> list[str]:
    ids = []
    async for document in client.documents.list(page_size=MOST_DOCUMENTS):
        ids.append(document.document_id)
        if len(ids) == MOST_DOCUMENTS:
            break
    return ids


async def _begun(
    client: Maieutic, question: str | None, mode: pb.SessionMode.ValueType, ids: list[str]
) -> pb.Session:
    title = (question or "").strip()[:TITLE_CHARACTERS]
    return await client.sessions.create(title=title, mode=mode, document_ids=ids)


def _introduce(screen: Screen, session: pb.Session) -> None:
    if session.mode == pb.SESSION_MODE_SOCRATIC:
        name = session_id_of(session)
        screen.aside(f"conversation {name}: it asks, you answer")
        screen.aside(f"what it has understood: maieutic specs list {name}")
        return
    count = len(session.document_ids)
    drawn = f"{count} document{'s' if count != 1 else ''}" if count else "the conversation alone"
    screen.aside(f"conversation {session_id_of(session)}, answers drawn from {drawn}")


async def _turns(
    opening: TurnStream | None,
    questions: AsyncIterator[str],
    asking: Callable[[str], TurnStream],
) -> AsyncIterator[TurnStream]:
    if opening is not None:
        yield opening
    async for question in questions:
        yield asking(question)


async def _talk(
    client: Maieutic, screen: Screen, turns: AsyncIterator[TurnStream], following: Beside
) -> int:
    status = Exit.DONE
    async for stream in turns:
        async with following.screen_free:
            with interrupt_cancels(client, stream):
                outcome = await _shown(screen, stream)
            for handed_on in outcome.handed_on:
                following.follow(handed_on)
        completed = outcome.state == turn_pb.TURN_STATE_COMPLETED
        status = Exit.DONE if completed else Exit.FAILED
    return status


async def _shown(screen: Screen, stream: TurnStream) -> turn_pb.TurnOutcome:
    """Show the answer as it comes; text that turns out void is replaced by what holds."""
    shown = ""
    async for frame in stream:
        if place := frame.accepted.turn.waiting_position:
            screen.aside(f"waiting for the turns before, place {place} in line")
        if frame.HasField("notice") and screen.rich and not shown:
            screen.aside(frame.notice.text or frame.notice.code.lower())
        if frame.gap.text_incomplete:
            screen.aside("(a part of the answer is missing; it comes with the end)")
        if not stream.text.startswith(shown):
            screen.part("\n")
            screen.aside("(the answer starts again)")
            shown = ""
        screen.part(stream.text[len(shown) :])
        shown = stream.text
    outcome = await stream.result()
    screen.line()
    _show_end(screen, outcome)
    return outcome


def _show_end(screen: Screen, outcome: turn_pb.TurnOutcome) -> None:
    for citation in outcome.citations:
        quote = " ".join(citation.quote.split())[:QUOTE_CHARACTERS]
        screen.line(f"[{citation.number}] {citation.document_name}: {quote}", style="dim")
    if outcome.state != turn_pb.TURN_STATE_COMPLETED:
        screen.problem(ending(outcome))
    screen.line()


async def _one(question: str) -> AsyncIterator[str]:
    yield question


async def _asked(screen: Screen) -> AsyncIterator[str]:
    """Yield the questions typed, or the lines of what standard input is, until its end."""
    interactive = _interactive(screen)
    if interactive:
        screen.aside(f"{QUIT} or Ctrl-D ends the conversation, Ctrl-C stops an answer")
    while True:
        line = await _in_thread(_typed if interactive else sys.stdin.readline)
        if not line or (interactive and line.strip() == QUIT):
            return
        if line.strip():
            yield line.strip()


def _interactive(screen: Screen) -> bool:
    return sys.stdin.isatty() and screen.rich


def _typed() -> str:
    with suppress(ImportError):  # line editing, where Python has it
        import readline  # noqa: F401, PLC0415
    try:
        return f"{input(PROMPT)}\n"
    except EOFError:
        return ""


async def _in_thread(read: Callable[[], str]) -> str:
    """Wait for a blocking read. Its thread must not keep the process alive after Ctrl-C."""
    line: Future[str] = Future()
    line.set_running_or_notify_cancel()  # so that there is always somebody to answer to

    def work() -> None:
        try:
            line.set_result(read())
        except Exception as error:  # noqa: BLE001 - it is raised where the line is waited for
            line.set_exception(error)

    threading.Thread(target=work, daemon=True, name="reading").start()
    return await asyncio.wrap_future(line)
