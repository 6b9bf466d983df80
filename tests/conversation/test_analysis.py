"""How the documents of a collection support an answer, asked through the public API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.support_pb2 import (
    VERDICT_CONTRADICTED,
    VERDICT_MIXED,
    VERDICT_SUPPORTED,
    VERDICT_UNSUPPORTED,
    SupportReport,
)
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_SUPPORT,
    TURN_STATE_COMPLETED,
)
from maieutic_client import Maieutic, NotFound, TurnStream
from tests.conversation.backend import Backend
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE = 60.0
BRAND_X = "brand-x-walkers"
MANUAL = "The battery of the Walker lasts 12 hours.\n\nThe Walker weighs 400 grams.\n"
REVIEW = "The battery of the Walker lasts 7 hours.\n\nThe strap of the Walker is not leather.\n"
CATALOGUE = "Umbrellas come in blue and in green.\n"
ANSWER = (
    "The battery of the Walker lasts 12 hours. The Walker weighs 400 grams. "
    "The strap of the Walker is leather. The Walker repels wild bears."
)
TOGETHER = 30


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A session without documents, beside a collection of three."""

    client: Maieutic
    session_id: str

    def analysis(self, collection: str, *, text: str = "", turn_id: str = "") -> TurnStream:
        return self.client.turns.analyze(
            self.session_id, text=text, turn_id=turn_id, collection=collection, timeout=PATIENCE
        )

    async def report(self, text: str, collection: str = BRAND_X) -> SupportReport:
        outcome = await self.analysis(collection, text=text).result()
        assert outcome.state == TURN_STATE_COMPLETED, outcome
        return outcome.findings.support


@pytest_asyncio.fixture(loop_scope="package")
async def shop(shared: Backend) -> AsyncIterator[Shop]:
    async with shared.client() as client:
        texts = {"manual.md": MANUAL, "review.md": REVIEW, "catalogue.md": CATALOGUE}
        added = [await client.documents.add(name, text) for name, text in texts.items()]
        await client.documents.attach(BRAND_X, [one.document.document_id for one in added])
        session = await client.sessions.create()
        yield Shop(client=client, session_id=session.session_id)


async def test_each_claim_has_its_verdict_with_the_words_of_the_documents(shop: Shop) -> None:
    report = await shop.report(ANSWER)
    assert [claim.quote for claim in report.claims] == [
        "The battery of the Walker lasts 12 hours",
        "The Walker weighs 400 grams",
        "The strap of the Walker is leather",
        "The Walker repels wild bears",
    ]
    battery, weight, strap, bears = report.claims
    assert battery.verdict == VERDICT_MIXED
    assert [one.document_name for one in battery.supporting] == ["manual.md"]
    assert [one.document_name for one in battery.contradicting] == ["review.md"]
    assert battery.contradicting[0].quote == "The battery of the Walker lasts 7 hours"
    assert weight.verdict == VERDICT_SUPPORTED
    assert strap.verdict == VERDICT_CONTRADICTED
    assert bears.verdict == VERDICT_UNSUPPORTED
    coverage = report.coverage
    shares = (coverage.supported, coverage.contradicted, coverage.mixed, coverage.unsupported)
    assert shares == (0.25, 0.25, 0.25, 0.25)
    cited = {one.document_name: one.citations for one in report.documents}
    assert cited == {"manual.md": 2, "review.md": 2, "catalogue.md": 0}
    assert (report.collection, report.documents_searched) == (BRAND_X, 3)


async def test_it_runs_beside_the_conversation_and_leaves_it_as_it_is(shop: Shop) -> None:
    asked = shop.client.turns.stream(shop.session_id, "How long does the battery last?")
    answer = await asked.result()
    stream = shop.analysis(BRAND_X, turn_id=asked.turn_id)
    outcome = await stream.result()
    turn = await shop.client.turns.get(stream.turn_id)
    assert (turn.kind, turn.text) == (TURN_KIND_SUPPORT, answer.text)
    assert turn.outcome == outcome
    assert [(used.step, used.prompt) for used in outcome.usage][:1] == [
        ("citation_claims", "citation_claims_v1")
    ]
    messages = [one async for one in shop.client.sessions.messages(shop.session_id)]
    assert {one.turn_id for one in messages} == {asked.turn_id}
    again = shop.client.turns.watch(stream.turn_id, timeout=PATIENCE)
    assert (await again.result()).findings == outcome.findings


async def test_without_a_collection_it_is_about_the_sessions_documents(shop: Shop) -> None:
    added = await shop.client.documents.add("manual.md", MANUAL)
    session = await shop.client.sessions.create(document_ids=[added.document.document_id])
    stream = shop.client.turns.analyze(session, text=ANSWER, timeout=PATIENCE)
    report = (await stream.result()).findings.support
    assert [one.document_name for one in report.documents] == ["manual.md"]
    assert [claim.verdict for claim in report.claims][:3] == [
        VERDICT_SUPPORTED,
        VERDICT_SUPPORTED,
        VERDICT_UNSUPPORTED,
    ]
    assert (report.collection, report.documents_searched) == ("", 1)


async def test_an_answer_without_claims_has_a_report_without_claims(shop: Shop) -> None:
    report = await shop.report("Hello! How are you?")
    assert list(report.claims) == []
    assert report.documents_searched == 3
    assert report.coverage.unsupported == 0


async def test_a_collection_of_nothing_and_another_tenants_are_not_found(
    shop: Shop, shared: Backend
) -> None:
    with pytest.raises(NotFound, match="brand-y"):
        await shop.report(ANSWER, "brand-y")
    async with shared.client(shared.stranger_key) as stranger:
        session = await stranger.sessions.create()
        theirs = stranger.turns.analyze(session, text=ANSWER, collection=BRAND_X)
        with pytest.raises(NotFound, match=BRAND_X):
            await theirs.result()
        with pytest.raises(NotFound):
            await stranger.turns.analyze(shop.session_id, text=ANSWER, collection="").result()


async def test_a_colleague_may_read_the_collection_and_not_the_session(
    shop: Shop, shared: Backend
) -> None:
    async with Maieutic.connect(shared.address, api_key=shared.api_key, user="bob") as bob:
        session = await bob.sessions.create()
        stream = bob.turns.analyze(session, text=ANSWER, collection=BRAND_X, timeout=PATIENCE)
        report = (await stream.result()).findings.support
        assert report.claims[0].verdict == VERDICT_MIXED
        with pytest.raises(NotFound):
            await bob.turns.analyze(shop.session_id, text=ANSWER, collection=BRAND_X).result()
    with pytest.raises(NotFound):
        await shop.client.turns.get(stream.turn_id)


async def test_thirty_analyses_of_both_kinds_at_once_all_end_well(shop: Shop) -> None:
    client = shop.client

    async def support() -> int:
        return len((await shop.report(ANSWER)).claims)

    async def socratic() -> int:
        """Return how many specifications the analysis beside a Socratic turn has found."""
        session = await client.sessions.create(mode=SESSION_MODE_SOCRATIC)
        said = "It must run on SQLite. It must never lose a message. Users want it in Python."
        await client.turns.stream(session, said, timeout=PATIENCE).result()
        found: list[str] = []

        async def analysed() -> bool:
            found[:] = [one.value async for one in client.specifications.list(session)]
            return bool(found)

        await wait_until(analysed, PATIENCE)
        return len(found)

    half = TOGETHER // 2
    ended = await asyncio.gather(
        *(support() for _ in range(half)), *(socratic() for _ in range(half))
    )
    assert ended == [4] * half + [3] * half
