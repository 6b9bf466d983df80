"""The command as a process of its own, in front of a real gateway, its output read by a program."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import pytest_asyncio
from click.testing import CliRunner

from maieutic.v1 import (
    document_admin_service_pb2 as admin_pb,
    session_service_pb2 as session_pb,
    turn_service_pb2 as pb,
)
from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.specification_pb2 import (
    CONFLICT_SEVERITY_HIGH,
    Conflict,
    Question,
    Specification,
)
from maieutic.v1.summary_pb2 import Summary
from maieutic.v1.turn_service_pb2 import Findings
from maieutic_client import Maieutic
from maieutic_client.cli import budgets, main, target
from tests.fakes.conversations import echo
from tests.fakes.gateway import Stack, gateway_stack
from tests.waiting import wait_until

COMMAND = [sys.executable, "-m", "maieutic_client.cli"]


@dataclass(frozen=True, kw_only=True)
class Ended:
    status: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Cli:
    stack: Stack
    folder: Path

    async def start(self, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        base = {name: value for name, value in os.environ.items() if "MAIEUTIC" not in name}
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            env={
                **base,
                "MAIEUTIC_HOME": str(self.folder / "home"),
                "MAIEUTIC_ADDRESS": self.stack.address,
                "MAIEUTIC_API_KEY": self.stack.key,
                **environ,
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, typed: str = "", **environ: str) -> Ended:
        process = await self.start(*arguments, **environ)
        out, err = await asyncio.wait_for(process.communicate(typed.encode()), 60)
        assert process.returncode is not None
        return Ended(status=process.returncode, out=out.decode(), err=err.decode())

    async def quick(self, *arguments: str, key: str = "", typed: str = "", **environ: str) -> Ended:
        """Run a command in a thread of this process, which needs no second to start."""
        base = {
            "MAIEUTIC_HOME": str(self.folder / "home"),
            "MAIEUTIC_ADDRESS": self.stack.address,
            "MAIEUTIC_API_KEY": key or self.stack.key,
        }
        runner = CliRunner(env={**base, **environ})
        ended = await asyncio.to_thread(runner.invoke, main, list(arguments), input=typed)
        return Ended(status=ended.exit_code, out=ended.stdout, err=ended.stderr)


@pytest_asyncio.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    async with gateway_stack(tmp_path) as stack:
        yield Cli(stack=stack, folder=tmp_path)


async def test_documents_are_added_listed_found_and_deleted(cli: Cli) -> None:
    texts = cli.folder / "texts"
    (texts / "deep").mkdir(parents=True)
    (texts / "redis.md").write_text("redis keeps streams")
    (texts / "deep" / "pg.txt").write_text("postgres keeps rows")
    (texts / "picture.png").write_bytes(b"\x89PNG")

    added = await cli.run("docs", "add", str(texts))
    assert added.status == 0, added.err
    assert [line.split(":")[0] for line in added.out.splitlines()] == [
        "added deep/pg.txt",
        "added redis.md",
    ]
    again = await cli.quick("docs", "add", str(texts / "redis.md"))
    assert "0 new chunks, 1 known" in again.out

    listed = await cli.quick("docs", "list")
    rows = [line.split("\t") for line in listed.out.splitlines()]
    assert [row[1:4] for row in rows] == [["redis.md", "ready", "1"], ["deep/pg.txt", "ready", "1"]]
    found = await cli.quick("docs", "search", "streams", "--limit", "1")
    assert found.out == "1.00\tredis.md\tredis keeps streams\n"

    assert (await cli.quick("docs", "delete", rows[0][0])).status == 0
    assert len((await cli.quick("docs", "list")).out.splitlines()) == 1


async def test_searches_are_judged_by_labelled_questions(cli: Cli) -> None:
    (cli.folder / "redis.md").write_text("redis keeps streams")
    questions = cli.folder / "questions.jsonl"
    labels = [("streams?", "redis.md", "keeps streams"), ("tables?", "redis.md", "no such words")]
    questions.write_text(
        "\n".join(
            json.dumps({"question": question, "document": document, "passage": passage})
            for question, document, passage in labels
        )
    )
    early = await cli.quick("docs", "eval", str(questions))
    assert early.status == 2
    assert "redis.md" in early.err
    await cli.quick("docs", "add", str(cli.folder / "redis.md"))
    ended = await cli.quick("docs", "eval", str(questions))
    assert ended.status == 0, ended.err
    rows = dict(line.split("\t") for line in ended.out.splitlines())
    figures = {"recall@1": "0.500", "recall@5": "0.500", "recall@10": "0.500", "MRR@10": "0.500"}
    assert rows == {**figures, "questions": "2"}
    questions.write_text("not a question")
    wrong = await cli.quick("docs", "eval", str(questions))
    assert wrong.status == 2
    assert "line 1" in wrong.err


async def test_a_file_that_is_refused_is_named_and_the_others_are_added(cli: Cli) -> None:
    (cli.folder / "bad.txt").write_bytes(b"\xff\xfe\xfd")
    (cli.folder / "good.txt").write_text("fine")
    ended = await cli.quick(
        "docs", "add", str(cli.folder / "bad.txt"), str(cli.folder / "good.txt")
    )
    assert ended.status == 1
    assert "bad.txt" in ended.err
    assert "content: must be UTF-8" in ended.err
    assert ended.out.startswith("added good.txt")


async def test_a_question_is_answered_on_standard_output_with_its_citations(cli: Cli) -> None:
    ended = await cli.run("chat", "what is a stream")
    assert ended.status == 0, ended.err
    assert ended.out == "what is a stream \n[1] facts.md: as it is written\n\n"
    assert "answers drawn from the conversation alone" in ended.err


async def test_a_busy_conversation_refuses_a_question_unless_told_otherwise(cli: Cli) -> None:
    refused = await cli.quick("chat", "busy")
    assert refused.status == 1
    assert "another turn is running" in refused.err
    for policy in ("enqueue", "interrupt", "rollback"):
        ended = await cli.quick("chat", "busy", "--if-busy", policy)
        assert (ended.status, ended.out) == (0, "busy \n[1] facts.md: as it is written\n\n")


async def test_every_line_of_standard_input_is_a_question(cli: Cli) -> None:
    ended = await cli.run("chat", typed="first\n\nsecond\n")
    assert ended.status == 0, ended.err
    assert [line for line in ended.out.splitlines() if line in {"first ", "second "}] == [
        "first ",
        "second ",
    ]
    assert len(cli.stack.conversations.sessions) == 1


async def test_input_that_is_no_text_is_refused_by_name(cli: Cli) -> None:
    process = await cli.start("chat", PYTHONIOENCODING="utf-8:strict")
    _, err = await asyncio.wait_for(process.communicate(b"caf\xe9\n"), 60)
    assert (process.returncode, b"is not UTF-8" in err) == (2, True), err
    for command in (("chat",), ("notes", "add", "s" * 48)):
        ended = await cli.quick(*command, os.fsdecode(b"caf\xe9"))
        assert (ended.status, "is not UTF-8" in ended.err) == (2, True), ended.err
    for name in (b"caf\xe9.txt", b"tea.txt"):
        (cli.folder / os.fsdecode(name)).write_text("fine")
    added = await cli.quick("docs", "add", str(cli.folder))
    assert (added.status, added.out[:14]) == (1, "added tea.txt:"), "one does not stop the others"


async def test_a_key_or_a_user_that_cannot_be_sent_is_refused_by_name(cli: Cli) -> None:
    ended = await cli.quick("sessions", "list", "--key", "mk_\u2026")
    assert (ended.status, "API key" in ended.err) == (3, True), ended.err
    ended = await cli.quick("sessions", "list", "--user", "J\u00fcrgen")
    assert (ended.status, "user:" in ended.err) == (2, True), ended.err


async def test_what_a_terminal_has_no_letter_for_is_shown_as_such(cli: Cli) -> None:
    ended = await cli.run("chat", "one \u2014 two", PYTHONIOENCODING="latin-1")
    assert (ended.status, ended.out.splitlines()[0]) == (0, "one ? two ")


async def test_in_socratic_mode_the_first_question_is_the_agent_s(cli: Cli) -> None:
    ended = await cli.quick("chat", "--mode", "socratic", typed="an answer\n")
    assert ended.status == 0, ended.err
    assert cli.stack.conversations.opened == ["NextQuestion", "StreamTurn"]
    (session_id,) = cli.stack.conversations.sessions
    assert f"maieutic specs list {session_id}" in ended.err
    await cli.quick("chat", "--session", session_id, typed="another\n")
    assert cli.stack.conversations.opened.count("NextQuestion") == 1, "only at the beginning"


async def test_an_id_that_begins_with_a_dash_is_no_option(cli: Cli) -> None:
    for name in ("-" + "x" * 47, "--" + "x" * 46, "-help" + "x" * 43):
        for command in (("sessions", "show"), ("specs", "list"), ("analyze",), ("code",)):
            ended = await cli.quick(*command, name)
            assert (ended.status, name in ended.err) == (4, True), ended.err
        ended = await cli.quick("chat", "hello", "--session", name)
        assert (ended.status, name in ended.err) == (4, True), ended.err
        for point in (f"{name}.u", f"{name}.17"):
            ended = await cli.quick("sessions", "branch", name, point)
            assert (ended.status, name in ended.err) == (4, True), ended.err
    typo = await cli.quick("analyze", "x" * 48, "--colection", "docs")
    assert (typo.status, "No such option" in typo.err) == (2, True)


async def test_lists_and_reports_come_as_lines_of_json(cli: Cli) -> None:
    assert (await cli.quick("chat", "first question")).status == 0
    (session_id,) = cli.stack.conversations.sessions
    note = Specification(specification_id="s", category="storage", key="engine", value="Müller")
    cli.stack.conversations.findings[session_id] = Findings(specifications=[note, note])
    for command, most in (
        (("sessions", "list"), "session_id"),
        (("sessions", "show", session_id), "message_id"),
        (("sessions", "stats", session_id), "message_count"),
        (("specs", "list", session_id), "specification_id"),
    ):
        ended = await cli.quick(*command, "--json")
        assert (ended.status, ended.err) == (0, "")
        assert all(most in json.loads(line) for line in ended.out.splitlines())
    listed = await cli.quick("specs", "list", session_id, "--json")
    assert listed.out.count("\n") == 2
    assert '"value": "Müller"' in listed.out
    assert '"withdrawn": false' in listed.out, "what is empty is told, too"
    none = await cli.quick("specs", "conflicts", session_id, "--json")
    assert (none.out, none.err) == ("", "")


def leaves(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield (*path, name), command


def test_every_list_comes_as_json_and_every_command_says_what_it_does() -> None:
    for path, command in leaves(main):
        options = {name for one in command.params for name in one.opts}
        assert path[-1] != "list" or "--json" in options, path
        assert not command.get_short_help_str(limit=66).endswith("..."), path
        assert all(option.help for option in command.params if isinstance(option, click.Option))


async def test_a_conversation_goes_on_and_is_listed_and_shown(cli: Cli) -> None:
    assert (await cli.quick("chat", "first question")).status == 0
    (session_id,) = cli.stack.conversations.sessions
    assert (await cli.quick("chat", "--session", session_id, "and then")).status == 0

    listed = await cli.quick("sessions", "list")
    assert [line.split("\t")[:3] for line in listed.out.splitlines()] == [
        [session_id, "first question", "direct"]
    ]
    shown = await cli.quick("sessions", "show", session_id)
    assert "first question" in shown.out
    assert "and then" in shown.out
    assert (await cli.quick("sessions", "delete", session_id)).status == 0
    assert (await cli.quick("sessions", "show", session_id)).status == 4


async def test_a_conversation_is_watched_until_it_is_deleted(cli: Cli) -> None:
    assert (await cli.quick("chat", "first question")).status == 0
    conversations = cli.stack.conversations
    (session_id,) = conversations.sessions
    step = session_pb.SessionFrame(turn_id="t1")
    step.turn_step_finished.step = "context"
    ended = session_pb.SessionFrame(turn_id="t1")
    ended.turn_ended.outcome.state = pb.TURN_STATE_FAILED
    ended.turn_ended.outcome.reason = "MODEL_AWAY"
    silent = session_pb.SessionFrame()
    deleted = session_pb.SessionFrame(session_deleted=session_pb.SessionRemoved())
    conversations.happened[session_id] = [step, silent, ended, deleted]
    watched = await cli.quick("sessions", "watch", session_id, "--cursors")
    assert watched.status == 0, watched.err
    lines = [line.split("\t") for line in watched.out.splitlines()]
    assert [line[0] for line in lines] == [
        *("snapshot", "turn_step_finished", "turn_ended", "session_deleted"),
    ]
    assert lines[1][1:3] == ["t1", "context: nothing new"]
    assert lines[2][1:3] == ["t1", "failed MODEL_AWAY"]
    rest = await cli.quick("sessions", "watch", session_id, "--cursor", lines[2][3])
    assert rest.out == "session_deleted\t-\t-\n"


async def test_a_conversation_is_changed_and_ended(cli: Cli) -> None:
    assert (await cli.quick("chat", "first question")).status == 0
    (session_id,) = cli.stack.conversations.sessions
    updated = await cli.quick(
        "sessions", "update", session_id, "--title", "T", "--mode", "socratic"
    )
    assert updated.out == f"updated {session_id}\n"
    listed = await cli.quick("sessions", "list", "--order", "used")
    assert listed.out.split("\t")[1:3] == ["T", "socratic"]
    assert (await cli.quick("sessions", "end", session_id)).out == f"ended {session_id}\n"
    _, session = cli.stack.conversations.sessions[session_id]
    assert session.HasField("end_time")
    assert (await cli.quick("sessions", "update", session_id)).status == 2


async def test_a_conversation_gets_a_budget_and_loses_it(cli: Cli) -> None:
    budget = Budget(tokens=500)
    async with Maieutic.connect(cli.stack.address, api_key=cli.stack.key) as client:
        session_id = (await client.sessions.create(budget=budget)).session_id
    _, session = cli.stack.conversations.sessions[session_id]
    assert session.budget == budget
    limits = ("--budget-tokens", "700", "--budget-cost", "2.5", "--currency", "EUR")
    assert (await cli.quick("sessions", "update", session_id, *limits)).status == 0
    assert session.budget == Budget(tokens=700, cost_micros=2_500_000, currency="EUR")
    session.spending.tokens, session.spending.cost_micros = 120, 345
    stats = await cli.quick("sessions", "stats", session_id)
    assert "tokens of the budget\t120 of 700\n" in stats.out
    assert "money of the budget\t0.000345 of 2.50 EUR\n" in stats.out
    both = await cli.quick("sessions", "update", session_id, "--no-budget", *limits)
    assert (both.status, "not both" in both.err) == (2, True)
    assert (await cli.quick("sessions", "update", session_id, "--no-budget")).status == 0
    assert session.budget == Budget()


async def test_a_conversation_is_branched_and_its_statistics_are_shown(cli: Cli) -> None:
    assert (await cli.quick("chat", "first question")).status == 0
    (session_id,) = cli.stack.conversations.sessions
    async with Maieutic.connect(cli.stack.address, api_key=cli.stack.key) as client:
        messages = [message async for message in client.sessions.messages(session_id)]
    branched = await cli.quick("sessions", "branch", session_id, messages[0].message_id)
    branch_id = branched.out.removeprefix("branched ").strip()
    _, branch = cli.stack.conversations.sessions[branch_id]
    assert branch.parent_session_id == session_id
    stats = await cli.quick("sessions", "stats", session_id)
    assert "messages\t2\n" in stats.out
    assert "turns completed\t1\n" in stats.out
    assert "tokens out of echo\t7\n" in stats.out
    assert "cost of echo\t12.000345 USD\n" in stats.out
    assert "cost of mute\tunknown\n" in stats.out


async def test_notes_are_added_listed_and_deleted(cli: Cli) -> None:
    assert (await cli.quick("chat", "first question")).status == 0
    (session_id,) = cli.stack.conversations.sessions
    added = await cli.quick("notes", "add", session_id, "remember this")
    note_id = added.out.removeprefix("added ").strip()
    listed = await cli.quick("notes", "list", session_id)
    assert [line.split("\t")[::2] for line in listed.out.splitlines()] == [
        [note_id, "remember this"]
    ]
    assert (await cli.quick("notes", "delete", session_id, note_id)).status == 0
    assert (await cli.quick("notes", "list", session_id)).out == ""


async def test_what_was_understood_is_shown_and_a_conflict_decided(cli: Cli) -> None:
    assert (await cli.quick("chat", "--mode", "socratic", "first question")).status == 0
    (session_id,) = cli.stack.conversations.sessions
    first, second = (
        Specification(specification_id=value, category="storage", key="engine", value=value)
        for value in ("SQLite", "Postgres")
    )
    conflict = Conflict(
        conflict_id="c" * 48, severity=CONFLICT_SEVERITY_HIGH, first=first, second=second
    )
    cli.stack.conversations.findings[session_id] = Findings(
        specifications=[first, second],
        conflicts=[conflict],
        questions=[Question(question_id="q", text="Which database?")],
    )
    assert "no summary yet" in (await cli.quick("specs", "summary", session_id)).err
    summary = Summary(text="They want a library.", message_count=8)
    cli.stack.conversations.findings[session_id].summary.CopyFrom(summary)
    shown = await cli.quick("specs", "summary", session_id)
    assert shown.out.strip() == "They want a library."
    listed = await cli.quick("specs", "list", session_id)
    assert listed.out.splitlines()[0].split("\t")[:3] == ["storage", "engine", "SQLite"]
    assert "Which database?" in (await cli.quick("specs", "questions", session_id)).out
    conflicts = await cli.quick("specs", "conflicts", session_id)
    assert conflicts.out.split("\t")[:4] == [conflict.conflict_id, "high", "SQLite", "Postgres"]
    undecided = await cli.quick("specs", "resolve", session_id, conflict.conflict_id)
    assert undecided.status == 2
    resolve = ("specs", "resolve", session_id, conflict.conflict_id)
    assert (await cli.quick(*resolve, "--keep", "second")).status == 0
    decided = await cli.quick("specs", "conflicts", "--all", session_id)
    assert decided.out.split("\t")[4].strip() == "keep second"


async def test_answers_are_drawn_from_all_documents_unless_told_otherwise(cli: Cli) -> None:
    async with Maieutic.connect(cli.stack.address, api_key=cli.stack.key) as client:
        for number in range(3):
            await client.documents.add(f"{number}.txt", f"text {number}")
    await cli.quick("chat", "one")
    await cli.quick("chat", "two", "--no-documents")
    counts = [len(s.document_ids) for _, s in cli.stack.conversations.sessions.values()]
    assert counts == [3, 0]


async def test_documents_are_replaced_and_put_into_collections(cli: Cli, tmp_path: Path) -> None:
    async with Maieutic.connect(cli.stack.address, api_key=cli.stack.key) as client:
        one = (await client.documents.add("1.txt", "storks")).document.document_id
        await client.documents.add("2.txt", "owls")
    file = tmp_path / "new.txt"
    file.write_text("swans")
    replaced = await cli.quick("docs", "replace", one, str(file))
    assert replaced.out.startswith("version 1: 1 new chunks")
    assert (await cli.quick("docs", "attach", "brand-x", one)).out == "attached to brand-x: 1\n"
    (row,) = (await cli.quick("docs", "list", "--collection", "brand-x")).out.splitlines()
    assert row.split("\t")[0] == one
    assert (await cli.quick("docs", "detach", "brand-x", one)).status == 0
    assert cli.stack.library.collections == {"brand-x": set()}


async def test_an_admin_checks_cleans_up_and_counts_documents(cli: Cli) -> None:
    key = cli.stack.admin_key
    fault = admin_pb.DocumentFault(
        tenant="acme", document_id="d" * 24, kind=admin_pb.DOCUMENT_FAULT_KIND_MISSING
    )
    cli.stack.library.faults.append(fault)
    cli.stack.library.expired.append(
        admin_pb.ExpiredDocument(tenant="acme", user_id="ann", document_id="e" * 24)
    )
    found = await cli.quick("docs", "check", key=key)
    assert (found.status, "missing" in found.out, "1 faults" in found.out) == (1, True, True)
    assert (await cli.quick("docs", "check", "--repair", key=key)).status == 0
    assert not cli.stack.library.faults
    told = await cli.quick("docs", "cleanup", "--dry-run", key=key)
    assert "e" * 24 in told.out
    assert "1 references would be given up" in told.out
    assert "1 references given up" in (await cli.quick("docs", "cleanup", key=key)).out
    assert not cli.stack.library.expired
    assert "documents\t0\n" in (await cli.quick("docs", "stats", key=key)).out
    assert (await cli.quick("docs", "stats")).status == 3


async def test_an_answer_that_starts_again_is_shown_again(cli: Cli) -> None:
    def answer(turn_id: str, text: str) -> list[pb.TurnFrame]:
        return [
            pb.TurnFrame(started=pb.TurnStarted(attempt=1)),
            pb.TurnFrame(delta=pb.TurnDelta(text="void")),
            *echo(turn_id, text),
        ]

    cli.stack.conversations.answer = answer
    ended = await cli.quick("chat", "the answer")
    assert ended.out.startswith("void\nthe answer \n")
    assert "(the answer starts again)" in ended.err


async def test_an_answer_with_a_gap_is_shown_whole_at_its_end(cli: Cli) -> None:
    def answer(turn_id: str, text: str) -> list[pb.TurnFrame]:
        gap = pb.TurnGap(text="the answ", text_incomplete=True)
        return [
            pb.TurnFrame(started=pb.TurnStarted(attempt=1)),
            pb.TurnFrame(delta=pb.TurnDelta(text="the ")),
            pb.TurnFrame(gap=gap),
            pb.TurnFrame(outcome=pb.TurnOutcome(state=pb.TURN_STATE_COMPLETED, text="the answer")),
        ]

    cli.stack.conversations.answer = answer
    ended = await cli.quick("chat", "the answer")
    assert ended.out.splitlines()[0] == "the answer"
    assert "a part of the answer is missing" in ended.err


def hands_on(cli: Cli, *begun: pb.HandedOn) -> None:
    """Let each answer be "So.", and begin these turns."""
    outcome = pb.TurnOutcome(state=pb.TURN_STATE_COMPLETED, text="So.", handed_on=begun)
    cli.stack.conversations.answer = lambda turn_id, text: [pb.TurnFrame(outcome=outcome)]


async def test_what_an_answer_has_begun_is_followed_to_its_end(cli: Cli) -> None:
    kinds = {"c": pb.TURN_KIND_CODE, "a": pb.TURN_KIND_ANALYSIS, "5": pb.TURN_KIND_SUPPORT}
    for name in kinds:
        outcome = pb.TurnOutcome(state=pb.TURN_STATE_COMPLETED, text=f"all of {name}")
        cli.stack.conversations.beside(name * 48, outcome)
    hands_on(cli, *(pb.HandedOn(kind=kind, turn_id=name * 48) for name, kind in kinds.items()))
    ended = await cli.quick("chat", "write it")
    assert (ended.status, ended.out) == (0, "So.\n\n")
    (session_id,) = cli.stack.conversations.sessions
    for line in (
        f"(turn {'c' * 48})",
        f"maieutic artifacts save {'c' * 48} FOLDER",
        f"maieutic specs list {session_id}",
        f"turn {'5' * 48} was begun",
        *(f"all of {name}" for name in kinds),
    ):
        assert line in ended.err


async def test_an_interrupt_while_the_end_is_waited_for_leaves_what_was_begun_alone(
    cli: Cli,
) -> None:
    cli.stack.conversations.beside("c" * 48, pb.TurnOutcome())
    cli.stack.conversations.silent.add("c" * 48)
    hands_on(cli, pb.HandedOn(turn_id="c" * 48))
    process = await cli.start("chat", "write it")
    assert process.stderr is not None
    while b"waiting for what was begun" not in (line := await process.stderr.readline()):
        assert line, "the command has left"
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130
    assert "CancelTurn" not in [name for name, _ in cli.stack.conversations.calls]


async def test_what_could_not_begin_or_failed_beside_a_conversation_fails_the_command(
    cli: Cli,
) -> None:
    failed = pb.TurnOutcome(state=pb.TURN_STATE_FAILED, reason="NO_SPECIFICATIONS")
    cli.stack.conversations.beside("c" * 48, failed)
    for begun, told in (
        (pb.HandedOn(turn_id="c" * 48), "failed (NO_SPECIFICATIONS)"),
        (pb.HandedOn(turn_id="d" * 48), "does not exist"),
        (pb.HandedOn(problem="too many run already"), "too many run"),
    ):
        hands_on(cli, begun)
        ended = await cli.quick("chat", "write it")
        assert (ended.status, ended.out) == (1, "So.\n\n")
        assert told in ended.err


async def test_a_turn_that_failed_is_explained_and_fails_the_command(cli: Cli) -> None:
    outcome = pb.TurnOutcome(
        state=pb.TURN_STATE_FAILED, reason="MODEL_REFUSED", explanation="ask something else"
    )
    cli.stack.conversations.answer = lambda turn_id, text: [pb.TurnFrame(outcome=outcome)]
    ended = await cli.quick("chat", "a question")
    assert ended.status == 1
    assert "the turn is failed (MODEL_REFUSED: ask something else)" in ended.err


async def test_a_budget_goes_with_each_question_and_its_end_is_explained(cli: Cli) -> None:
    explained = "the budget of the turn has 90 of 500 tokens left: ask for less"
    outcome = pb.TurnOutcome(
        state=pb.TURN_STATE_OVER_BUDGET,
        text="So far",
        reason="TURN_BUDGET_SPENT",
        explanation=explained,
    )
    cli.stack.conversations.answer = lambda turn_id, text: [pb.TurnFrame(outcome=outcome)]
    limits = ("--budget-tokens", "500", "--budget-cost", "0.25")
    ended = await cli.quick("chat", "a question", *limits)
    assert (ended.status, ended.out) == (1, "So far\n\n")
    assert f"the turn is over budget (TURN_BUDGET_SPENT: {explained})" in ended.err
    *_, raw = cli.stack.conversations.requests.values()
    budget = pb.StreamTurnRequest.FromString(raw).budget
    assert budget == Budget(tokens=500, cost_micros=250_000, currency="USD")


@pytest.mark.parametrize("amount", ["much", "0", "-1", "NaN", "Infinity", "0.0000001"])
async def test_an_amount_of_money_that_is_none_is_refused(cli: Cli, amount: str) -> None:
    ended = await cli.quick("chat", "a question", f"--budget-cost={amount}")
    assert ended.status == 2
    assert "is no amount such as 0.25" in ended.err


@pytest.mark.parametrize("tokens", ["0", "1000000000001", "99999999999999999999"])
async def test_tokens_that_no_budget_may_have_are_refused_at_once(cli: Cli, tokens: str) -> None:
    ended = await cli.quick("chat", "a question", f"--budget-tokens={tokens}")
    assert ended.status == 2
    assert "is not in the range 1<=x<=1000000000000" in ended.err


@pytest.mark.parametrize("command", ["chat", "analyze", "code"])
async def test_an_interrupt_while_an_answer_is_written_cancels_the_turn(
    cli: Cli, command: str
) -> None:
    state = cli.stack.conversations
    async with Maieutic.connect(cli.stack.address, api_key=cli.stack.key) as client:
        session_id = (await client.sessions.create()).session_id
    state.hold = asyncio.Event()
    given = ["--session", session_id] if command == "chat" else [session_id]
    process = await cli.start(command, *given, "one two")
    await wait_until(lambda: state.sent == 4, 30)
    process.send_signal(signal.SIGINT)
    await wait_until(lambda: "CancelTurn" in [name for name, _ in state.calls], 30)
    state.hold.set()
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert command == "analyze" or out.startswith(b"one two \n")


async def test_an_interrupt_before_the_turn_is_accepted_cancels_it_once_it_is(cli: Cli) -> None:
    state = cli.stack.conversations
    state.hold, state.hold_all = asyncio.Event(), asyncio.Event()
    process = await cli.start("chat", "one two")
    await wait_until(lambda: state.open_streams == 1, 30)
    process.send_signal(signal.SIGINT)
    state.hold_all.set()
    await wait_until(lambda: "CancelTurn" in [name for name, _ in state.calls], 30)
    state.hold.set()
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands give up a gateway that is away almost at once."""
    monkeypatch.setattr(target, "PATIENCE_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("arguments", "environ", "status", "told"),
    [
        (["sessions", "show", "short"], {}, 2, "session_id: does not match"),
        (["sessions", "show", "s" * 48], {}, 4, "does not exist"),
        (["sessions", "list"], {"MAIEUTIC_API_KEY": "mk_wrong"}, 3, "API key is unknown"),
        (["sessions", "list"], {"MAIEUTIC_API_KEY": ""}, 2, "no API key: give --key"),
        (["sessions", "list", "--address", "127.0.0.1:1"], {}, 5, "cannot be reached"),
        (["docs", "add", "no-such-file"], {}, 2, "does not exist"),
        (["docs", "search", "x", "--limit", "99"], {}, 2, "--limit"),
        (["chat", ""], {}, 2, "text: is missing"),
        (["nonsense"], {}, 2, "No such command"),
    ],
)
async def test_an_error_says_what_to_do_and_has_its_own_exit_status(
    cli: Cli, arguments: list[str], environ: dict[str, str], status: int, told: str
) -> None:
    ended = await cli.quick(*arguments, **environ)
    assert (ended.status, told in ended.err) == (status, True), ended
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "command",
    [
        "",
        "serve",
        "chat",
        "docs",
        "docs add",
        "docs eval",
        "sessions",
        "sessions list",
        "artifacts",
        "artifacts save",
        "demo",
        "emulate",
    ],
)
def test_every_command_explains_itself(command: str) -> None:
    shown = CliRunner().invoke(main, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage: ")


async def test_the_client_and_its_command_import_nothing_of_the_server() -> None:
    code = (
        "import sys, maieutic_client, maieutic_client.cli\n"
        "taken = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(taken & {'services', 'redis', 'asyncpg', 'aio_pika', 'protovalidate',"
        " 'opentelemetry', 'pydantic', 'jwt', 'numpy'}))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out == b"[]\n"


async def test_an_admin_lists_shows_and_drops_records_in_quarantine(cli: Cli) -> None:
    record_id = f"7:checksum:s:{'s' * 48}:rec:1795283703988"
    cli.stack.quarantine.put(record_id, b"\x01\x02\x03\x04\x05\x0a\x07what a user wrote")
    key = {"MAIEUTIC_API_KEY": cli.stack.admin_key}

    listed = await cli.quick("admin", "quarantine", "list", **key)
    assert listed.out.split("\t")[:4] == [record_id, "session", "checksum", "24 B"]
    shown = await cli.quick("admin", "quarantine", "show", record_id, **key)
    assert "first bytes\t01 02 03 04 05 0a 07 77\n" in shown.out
    assert "user wrote" not in shown.out
    whole = await cli.quick("admin", "quarantine", "show", record_id, "--content", **key)
    assert whole.out.endswith(
        "00000000  01 02 03 04 05 0a 07 77 68 61 74 20 61 20 75 73  |.......what a us|\n"
        "00000010  65 72 20 77 72 6f 74 65                          |er wrote|\n"
    )
    dropped = await cli.quick("admin", "quarantine", "drop", record_id, **key)
    assert (dropped.status, dropped.out) == (0, f"dropped {record_id}\n")
    again = await cli.quick("admin", "quarantine", "drop", record_id, **key)
    assert again.status == 4
    assert record_id in again.err
    empty = await cli.quick("admin", "quarantine", "list", **key)
    assert (empty.status, empty.out) == (0, "")
    assert "nothing is in quarantine" in empty.err


async def test_an_admin_lists_shows_redrives_and_drops_dead_letters(cli: Cli) -> None:
    first, second = "a" * 24, "b" * 24
    cli.stack.dead_letters.put(first, b"\x00\xffnot a job, what a user wrote")
    cli.stack.dead_letters.put(second, b"", routing_key="long")
    key = {"MAIEUTIC_API_KEY": cli.stack.admin_key}

    listed = await cli.quick("admin", "dead", "list", "--routing-key", "interactive", **key)
    queue = "turns.interactive.v1"
    assert listed.out.split("\t")[:5] == [first, queue, "interactive", "unreadable job", "30 B"]
    assert len(listed.out.splitlines()) == 1
    shown = await cli.quick("admin", "dead", "show", first, **key)
    assert "first bytes\t00 ff 6e 6f 74" in shown.out
    assert "header baggage\tof the job\n" in shown.out
    assert "user wrote" not in shown.out
    whole = await cli.quick("admin", "dead", "show", first, "--content", **key)
    assert "|t a user wrote|" in whole.out
    unsure = await cli.quick("admin", "dead", "redrive", **key)
    assert (unsure.status, unsure.out) == (2, "")
    both = await cli.quick("admin", "dead", "drop", first, "--all", **key)
    assert both.status == 2
    dry = await cli.quick("admin", "dead", "redrive", "--all", "--dry-run", **key)
    assert dry.out.splitlines()[0] == (
        f"would publish {first} to turns interactive: message of-{first}"
    )
    redriven = await cli.quick("admin", "dead", "redrive", first, **key)
    assert redriven.out == f"published {first} to turns interactive: message of-{first}\n"
    dropped = await cli.quick("admin", "dead", "drop", "--reason", "unreadable", **key)
    assert (dropped.status, dropped.out) == (0, "dropped 2\n")
    again = await cli.quick("admin", "dead", "drop", first, **key)
    assert again.status == 4
    empty = await cli.quick("admin", "dead", "list", "--redriven", **key)
    assert (empty.status, empty.out) == (0, "")
    assert "no dead letters" in empty.err


async def test_records_in_quarantine_need_an_admins_key(cli: Cli) -> None:
    ended = await cli.quick("admin", "quarantine", "list")
    assert ended.status == 3
    assert "not an admin's" in ended.err


async def test_an_admin_builds_switches_exports_and_drops_index_versions(
    cli: Cli, tmp_path: Path
) -> None:
    key, first, second = {"MAIEUTIC_API_KEY": cli.stack.admin_key}, "0" * 16, "1" * 16
    built = await cli.quick("index", "build", "--chunk-characters", "500", **key)
    assert built.out.splitlines() == [
        *(f"{second}  {done} of 2" for done in range(3)),
        f"built {second}",
    ]
    switched = await cli.quick("index", "switch", second, **key)
    assert (switched.status, switched.out) == (0, f"searched: {second}\n")
    assert (await cli.quick("index", "rollback", **key)).out == f"searched: {first}\n"
    listed = (await cli.quick("index", "list", **key)).out.splitlines()
    assert [line.split("\t")[-1] for line in listed] == ["searched", "previous"]
    file = str(tmp_path / "version")
    exported = await cli.quick("index", "export", first, file, **key)
    assert exported.out == f"exported {first}: 2 documents\n"
    imported = await cli.quick("index", "import", file, **key)
    assert imported.out == f"imported {first}: 2 documents, 1 skipped, 3 chunks\n"
    assert "index list" in imported.err
    assert (await cli.quick("index", "export", "e" * 16, file, **key)).status == 4
    assert (await cli.quick("index", "import", file + "x", **key)).status == 2
    assert (await cli.quick("index", "drop", second, **key)).out == f"dropped {second}\n"
    assert (await cli.quick("index", "drop", "../x", **key)).status == 2
    assert (await cli.quick("index", "list")).status == 3


async def test_what_was_consumed_is_shown_for_people_and_for_programs(cli: Cli) -> None:
    async with Maieutic.connect(cli.stack.address, api_key=cli.stack.key) as client:
        session = (await client.sessions.create()).session_id
        turn = await client.turns.begin(session, "one two three")
        await client.turns.begin(session, "four")
    by_session = await cli.quick("usage", "--by", "session,model", "--since", "2026-11-01")
    assert by_session.out == f"{session}\techo\t2\t2\t4\t0\t0\t0\t3.00 USD\n"
    assert by_session.err == "in all 2 calls of 2 turns: 4 in, 0 out, 3.00 USD\n"
    of_turn = await cli.quick("usage", "--turn", turn.turn_id, "--by", "")
    assert of_turn.out == "1\t1\t3\t0\t0\t0\t1.50 USD\n"
    told = json.loads((await cli.quick("usage", "--session", session, "--json")).out)
    assert told["rows"][0]["total"]["costs"] == [{"currency": "USD", "micros": "3000000"}]

    admin = cli.stack.admin_key
    of_tenant = await cli.quick("usage", "--tenant", "acme", "--by", "user", key=admin)
    assert of_tenant.out.startswith("ann\t2\t2\t4")
    nobody = await cli.quick("usage", "--tenant", "acme", "--user", "bob", key=admin)
    assert (nobody.out, nobody.err) == ("", "in all 0 calls of 0 turns: 0 in, 0 out, nothing\n")
    assert (await cli.quick("usage", "--tenant", "--by", "day", key=admin)).status == 0
    refused = await cli.quick("usage", "--tenant")
    assert (refused.status, "not an admin's" in refused.err) == (3, True)
    assert (await cli.quick("usage", "--session", "s" * 48)).status == 4
    for wrong in (("--by", "week"), ("--turn", "t", "--session", "s"), ("--since", "yesterday")):
        assert (await cli.quick("usage", *wrong)).status == 2


@pytest.mark.parametrize(
    ("micros", "shown"),
    [(0, "0.00"), (1, "0.000001"), (1_500_000, "1.50"), (12_345_600_000, "12345.60")],
)
def test_money_is_shown_exactly_in_its_unit(micros: int, shown: str) -> None:
    assert budgets.amount(micros) == shown
