"""`maieutic analyze`: a report read by a person, by a program, and what goes wrong."""

import asyncio
import json

import pytest
from click.testing import CliRunner, Result
from google.protobuf.json_format import ParseDict

from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.message_pb2 import Citation
from maieutic.v1.support_pb2 import (
    VERDICT_MIXED,
    VERDICT_UNSUPPORTED,
    Claim,
    SupportCoverage,
    SupportDocument,
    SupportReport,
)
from maieutic.v1.turn_service_pb2 import (
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    AnalyzeRequest,
    Findings,
    TurnFrame,
    TurnNotice,
    TurnOutcome,
)
from maieutic_client.cli import main
from tests.client.conftest import Served
from tests.fakes.conversations import echo

REPORT = SupportReport(
    collection="brand-x",
    claims=[
        Claim(
            text="The battery lasts 12 hours.",
            quote="lasts 12 hours",
            verdict=VERDICT_MIXED,
            supporting=[Citation(number=1, document_name="manual.md", quote="12 hours")],
            contradicting=[Citation(number=2, document_name="review.md", quote="7\thours")],
        ),
        Claim(text="It swims.", quote="It swims", verdict=VERDICT_UNSUPPORTED),
    ],
    coverage=SupportCoverage(mixed=0.5, unsupported=0.5),
    documents_searched=3,
    documents=[
        SupportDocument(document_id="m", document_name="manual.md", citations=1),
        SupportDocument(document_id="c", document_name="catalogue.md"),
    ],
)


class Analyst:
    """Answers questions with an echo, and analyses with the report."""

    def __init__(self) -> None:
        self.analysed: list[str] = []
        """The texts of the analyses."""

    def __call__(self, turn_id: str, text: str) -> list[TurnFrame]:
        if text.endswith("?"):
            return echo(turn_id, f"So {text}")
        self.analysed.append(text)
        outcome = TurnOutcome(state=TURN_STATE_COMPLETED, findings=Findings(support=REPORT))
        if "fail" in text:
            outcome = TurnOutcome(
                state=TURN_STATE_FAILED, reason="SEARCH_UNAVAILABLE", explanation="Not now."
            )
        notice = TurnNotice(code="COMPARING", text="Comparing the claims")
        return [TurnFrame(notice=notice), TurnFrame(outcome=outcome)]


@pytest.fixture
def analyst(served: Served) -> Analyst:
    served.state.answer = analyst = Analyst()
    return analyst


async def analyze(served: Served, *arguments: str) -> Result:
    environ = {"MAIEUTIC_ADDRESS": served.server.address, "MAIEUTIC_API_KEY": "mk_any"}
    given = ["analyze", served.session_id, *arguments]
    return await asyncio.to_thread(CliRunner(env=environ).invoke, main, given)


async def test_a_program_reads_a_line_for_each_claim(served: Served, analyst: Analyst) -> None:
    ended = await analyze(served, "It lasts 12 hours.", "--collection", "brand-x")
    assert ended.exit_code == 0
    assert [line.split("\t") for line in ended.stdout.splitlines()] == [
        [
            "mixed",
            "The battery lasts 12 hours.",
            "manual.md: “12 hours”",
            "review.md: “7 hours”",
        ],
        ["unsupported", "It swims.", "", ""],
    ]
    shares = "0% supported, 0% contradicted, 50% mixed, 50% unsupported"
    assert ended.stderr.splitlines() == [
        "Comparing the claims",
        f"2 claims: {shares}; 3 documents of brand-x searched",
        "never cited: catalogue.md",
    ]
    assert analyst.analysed == ["It lasts 12 hours."]


async def test_the_whole_report_comes_as_json(served: Served, analyst: Analyst) -> None:
    ended = await analyze(served, "It lasts 12 hours.", "--json")
    told = json.loads(ended.stdout)
    assert ParseDict(told, SupportReport()) == REPORT
    assert told["coverage"]["supported"] == 0
    assert "“" not in ended.stdout


async def test_the_last_answer_is_analysed_unless_a_turn_is_named(
    served: Served, analyst: Analyst
) -> None:
    first = served.client.turns.stream(served.session_id, "Why one?")
    await first.result()
    await served.client.turns.stream(served.session_id, "Why two?").result()
    assert (await analyze(served)).exit_code == 0
    assert (await analyze(served, "--turn", first.turn_id)).exit_code == 0
    assert analyst.analysed == ["So Why two? ", "So Why one? "]


async def test_a_stream_that_breaks_is_taken_up_and_begins_nothing_twice(
    served: Served, analyst: Analyst
) -> None:
    served.state.cuts[:] = [0, 1]
    stream = served.client.turns.analyze(served.session_id, text="It lasts 12 hours.")
    outcome = await stream.result()
    assert outcome.findings.support == REPORT
    assert served.state.opened == ["Analyze", "Analyze", "WatchTurn"]
    assert len(analyst.analysed) == 1


async def test_a_budget_goes_with_the_answer(served: Served, analyst: Analyst) -> None:
    limits = ("--budget-tokens", "500", "--budget-cost", "0.25")
    assert (await analyze(served, "It lasts 12 hours.", *limits)).exit_code == 0
    *_, raw = served.state.requests.values()
    budget = AnalyzeRequest.FromString(raw).budget
    assert budget == Budget(tokens=500, cost_micros=250_000, currency="USD")


async def test_what_goes_wrong_is_told(served: Served, analyst: Analyst) -> None:
    ended = await analyze(served, "Please fail.")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "SEARCH_UNAVAILABLE: Not now." in ended.stderr
    both = await analyze(served, "Text", "--turn", "t" * 48)
    assert (both.exit_code, "not both" in both.stderr) == (2, True)
    nothing = await analyze(served)
    assert (nothing.exit_code, "no answer yet" in nothing.stderr) == (2, True)
    unknown = await analyze(served, "--turn", "t" * 48)
    assert unknown.exit_code == 4
