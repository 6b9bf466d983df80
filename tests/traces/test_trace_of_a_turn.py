"""One trace for each turn, from the caller to the row in PostgreSQL, over five processes."""

import asyncio
import json

import pytest

from maieutic_client import Maieutic
from services.runtime import names
from tests.collector import Received, ancestry, children_of, tree
from tests.faults.steps import archived_turn, scripted
from tests.traces.observed import FIRST, LAST, PATIENCE, Observed, one
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

RUN = f"agents CONSUMER {names.RUN_TURN}"
PUBLISHED = "agents PRODUCER publish results"
WORK = "maieutic.session.v1.TurnWorkService"
BATCH = f"persistence CONSUMER {names.ARCHIVE_BATCH}"
FAILED_ONCE = scripted(fail="unavailable", fail_times=1, retry_after=0.1)


async def answered(client: Maieutic, session_id: str, question: str) -> str:
    """Ask, wait for the answer, and return the turn's id."""
    async with client.turns.stream(session_id, question, timeout=PATIENCE) as stream:
        await stream.result()
    return stream.turn_id


async def test_a_turn_is_one_trace_from_its_caller_to_its_row(
    observed: Observed, client: Maieutic
) -> None:
    document = (await client.documents.add("tea.md", b"# Tea\n\nGreen tea brews at 75.")).document
    session = await client.sessions.create(document_ids=[document.document_id])
    turn_id = await answered(client, session.session_id, "How is tea brewed?")
    spans = await observed.whole_turn(turn_id)

    print(tree(one(spans, FIRST), spans))  # noqa: T201 - for whoever wants to see it: pytest -s
    assert len({span.trace_id for span in spans}) == 1
    assert ancestry(one(spans, LAST), spans) == [
        LAST,
        PUBLISHED,
        RUN,
        "session PRODUCER publish turns",
        "session SERVER maieutic.v1.TurnService/StreamTurn",
        "gateway CLIENT maieutic.v1.TurnService/StreamTurn",
        "gateway SERVER maieutic.v1.TurnService/StreamTurn",
        FIRST,
    ]
    assert [str(below) for below in children_of(one(spans, RUN), spans)] == [
        f"agents CLIENT {WORK}/ClaimTurn",
        "agents CLIENT maieutic.v1.DocumentService/SearchDocuments",
        "agents CLIENT chat scripted-1",
        f"agents CLIENT {WORK}/CompleteTurn",
        PUBLISHED,
    ]
    # The stores under it: Redis and the vectors. The database is the batch's, see the next test.
    for method in ("ClaimTurn", "CompleteTurn"):
        served = one(spans, f"session SERVER {WORK}/{method}")
        (transaction,) = children_of(served, spans)
        assert str(transaction) == f"session CLIENT {names.TRANSACT}"
        assert transaction.attribute(names.DB_SYSTEM) == "redis"
    searched = one(spans, "retrieval SERVER maieutic.v1.DocumentService/SearchDocuments")
    below = tree(searched, spans)
    assert f"retrieval INTERNAL {names.EMBED_TEXTS}" in below
    assert f"retrieval INTERNAL {names.SEARCH_VECTORS}" in below


async def test_the_batch_that_writes_turns_links_to_each_of_them(
    observed: Observed, client: Maieutic
) -> None:
    def published(turn_id: str) -> bool:
        return PUBLISHED in {str(span) for span in observed.turn(turn_id)}

    sessions = [await client.sessions.create() for _ in range(4)]
    # What comes while it sleeps, it finds together.
    observed.stack.freeze("persistence")
    try:
        asked = (answered(client, session.session_id, "Why?") for session in sessions)
        turn_ids = await asyncio.gather(*asked)
        # An answer is told before its result is on the bus.
        await wait_until(lambda: all(map(published, turn_ids)), PATIENCE, every=0.05)
    finally:
        observed.stack.thaw("persistence")
    turns = [await observed.whole_turn(turn_id) for turn_id in turn_ids]

    rows = [one(spans, LAST) for spans in turns]
    wanted = {row.span.parent_span_id for row in rows}
    assert len({row.trace_id for row in rows}) == len(turn_ids)

    def batches() -> list[Received]:
        found = [one for one in observed.collector.spans() if str(one) == BATCH]
        return [one for one in found if one.links & wanted]

    await wait_until(lambda: wanted <= {link for one in batches() for link in one.links}, PATIENCE)
    assert max(len(one.links & wanted) for one in batches()) > 1
    for batch in batches():
        assert not batch.span.parent_span_id, "many turns are its cause, so none is its parent"
        for row in (row for row in rows if row.span.parent_span_id in batch.links):
            assert row.links == {batch.span.span_id}
        written = children_of(batch, observed.collector.spans())[0]
        assert str(written) == f"persistence CLIENT {names.ARCHIVE_TRANSACTION}"
        assert written.attribute(names.DB_SYSTEM) == "postgresql"


async def test_a_second_attempt_is_in_the_same_trace_and_links_to_the_first(
    observed: Observed, client: Maieutic
) -> None:
    session = await client.sessions.create()
    turn_id = await answered(client, session.session_id, FAILED_ONCE)
    assert (await archived_turn(observed.stack, turn_id))["attempts"] == 2
    spans = await observed.whole_turn(turn_id)

    first, second = (span for span in spans if str(span) == RUN)
    assert second.links == {first.span.span_id}
    assert not first.links
    # The clock has published the job again, for the call that began the turn.
    assert ancestry(second, spans)[1:4] == [
        "session PRODUCER publish turns",
        f"session INTERNAL {names.SWEEP_TURN}",
        "session SERVER maieutic.v1.TurnService/StreamTurn",
    ]
    failed = [below for below in children_of(first, spans) if "chat" in below.span.name]
    assert failed[0].span.status.message == "ModelUnavailable"


async def test_a_log_line_about_a_turn_has_the_turn_s_trace(
    observed: Observed, client: Maieutic
) -> None:
    session = await client.sessions.create()
    turn_id = await answered(client, session.session_id, FAILED_ONCE)
    spans = await observed.whole_turn(turn_id)

    logs = dict(observed.stack.logs())["agents-1"].splitlines()
    (line,) = [json.loads(text) for text in logs if turn_id in text]
    first = next(span for span in spans if str(span) == RUN)
    assert line["trace_id"] == first.trace_id
    assert line["span_id"] == first.span.span_id.hex()
    assert (line["service"], line["level"]) == ("agents", "warning")
