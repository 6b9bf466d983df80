"""Pinecone's index while Pinecone closes, resets, refuses, lags and stands still."""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import psutil
import pytest
import pytest_asyncio
from pinecone import AsyncIndex

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.adapters.pinecone import PineconeVectorIndex, trusting
from services.retrieval.adapters.pinecone_faults import Kind, fault_of
from services.retrieval.adapters.pinecone_records import MOST_RECORDS, space_of
from services.retrieval.errors import (
    BadIndexUrl,
    IndexDamaged,
    IndexMismatch,
    IndexRefused,
    IndexTooSlow,
    IndexUnavailable,
)
from services.runtime import deadline, names
from services.runtime.errors import ServiceError
from tests.emulators.pinecone_plan import Fault, Rule
from tests.recorded import recording
from tests.retrieval.running import CountingEmbedder, running_retrieval
from tests.retrieval.vectors_at_pinecone import (
    CHUNKS,
    TENANT,
    Pinecone,
    add,
    nearest,
    passages,
    running_pinecone,
    vectors,
)
from tests.waiting import wait_until

FOREVER = 60.0
FIELD = ["close", "reset", "429", "503"]
"""What was met in the field: connections that end, and hosts that turn requests away."""


@pytest_asyncio.fixture
async def pinecone(tmp_path: Path) -> AsyncIterator[Pinecone]:
    async with running_pinecone(tmp_path) as running:
        yield running


def told(what: str) -> None:
    print(what)  # noqa: T201 - a figure for who runs the tests with -s


def spoiling(faults: Sequence[str], *, seed: int) -> list[Rule]:
    """Return a plan that spoils two of five requests, by each of the faults as often."""
    # A rule gets only what those before it have left.
    share = 0.4 / len(faults)
    return [
        replace(rule_of(fault), share=share / (1 - n * share), seed=seed + n)
        for n, fault in enumerate(faults)
    ]


def rule_of(fault: str) -> Rule:
    if fault in get_args(Fault):
        return Rule(fault=cast("Fault", fault))
    return Rule(fault="status", status=int(fault), retry_after=0.02)


def failures(results: Sequence[object]) -> list[BaseException]:
    return [result for result in results if isinstance(result, BaseException)]


@pytest.mark.parametrize(
    ("seed", "faults"),
    [(30, FIELD), (300, FIELD), (100, FIELD), (30, ["close"]), (100, ["reset"])],
)
async def test_no_search_fails_while_two_of_five_requests_are_spoilt(
    pinecone: Pinecone, seed: int, faults: Sequence[str]
) -> None:
    """As many searches as the seed says, all at once."""
    async with pinecone.opened() as index:
        await add(index)
        pinecone.emulator.follow(spoiling(faults, seed=seed))
        # Distinct requests, so that the plan decides for each search alone.
        found = await asyncio.gather(
            *(
                index.search(TENANT, vector, document_ids=["d"], limit=3)
                for vector in vectors(seed)
            ),
            return_exceptions=True,
        )
    log = pinecone.emulator.requests
    ends, most = Counter(one.end for one in log), max(one.copy for one in log) + 1
    spoilt = len(log) - ends["200"]
    told(
        f"\n{seed} searches, {len(failures(found))} failures, {len(log)} requests: "
        f"{len(log) / seed:.2f} a search, at most {most}; {dict(ends)}; "
        f"at most {pinecone.emulator.peak()} connections"
    )
    assert not failures(found)
    assert all(isinstance(hits, list) and len(hits) == 3 for hits in found)
    assert len(log) == seed + spoilt
    assert 0.3 * len(log) < spoilt < 0.5 * len(log)
    assert len(ends) == len(faults) + 1
    assert most <= pinecone.options.attempts + pinecone.options.reconnects
    assert pinecone.emulator.peak() <= pinecone.options.connections


def shared_handle(pinecone: Pinecone) -> AsyncIndex:
    """Return the SDK's own client, with its own retries."""
    return AsyncIndex(
        host=f"{pinecone.emulator.url}/index/passages",
        api_key="a key",
        ssl_verify=trusting(pinecone.options.ca_file),  # type: ignore[arg-type] # as the adapter
    )


async def test_the_control_one_shared_handle_of_the_sdk_fails_under_the_same_plan(
    pinecone: Pinecone,
) -> None:
    async with pinecone.opened() as index:
        await add(index)
    # The SDK's retries hold until its budget for the host is spent.
    searches, space = 300, space_of("", "test", TENANT)
    pinecone.emulator.follow(spoiling(FIELD, seed=searches))
    async with shared_handle(pinecone) as shared:
        found = await asyncio.gather(
            *(
                shared.query(vector=vector.tolist(), top_k=3, namespace=space)
                for vector in vectors(searches)
            ),
            return_exceptions=True,
        )
    told(f"\n{searches} searches on one shared handle: {len(failures(found))} failures")
    assert len(failures(found)) > searches / 20


async def test_the_control_one_shared_handle_is_closed_under_the_hands_of_others(
    pinecone: Pinecone,
) -> None:
    async with pinecone.opened() as index:
        await add(index)
    tasks, space, shared = 100, space_of("", "test", TENANT), shared_handle(pinecone)

    async def search(number: int) -> None:
        async with shared:
            for _ in range(1 + number % 3):
                await shared.query(vector=vectors()[number].tolist(), top_k=3, namespace=space)

    found = await asyncio.gather(
        *(search(number % CHUNKS) for number in range(tasks)), return_exceptions=True
    )
    # What each of them met is what the adapter would try again.
    faults = [fault_of(one) for one in failures(found) if isinstance(one, Exception)]
    told(f"\n{tasks} tasks that search on one handle and close it: {len(faults)} failures")
    assert len(faults) > tasks / 4
    assert {fault.kind for fault in faults if fault} == {Kind.LOST}


async def test_a_cancelled_search_leaves_no_connection(pinecone: Pinecone) -> None:
    async with pinecone.opened() as index:
        await add(index)
        pinecone.emulator.follow([Rule(delay=FOREVER)])
        searches = [asyncio.create_task(nearest(index, n)) for n in range(30)]
        busy = pinecone.options.connections
        await wait_until(lambda: pinecone.emulator.waiting == busy)
        for search in searches:
            search.cancel()
        results = await asyncio.gather(*searches, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in results)
        await wait_until(lambda: pinecone.emulator.connections() == 0)
        pinecone.emulator.follow([])
        assert await nearest(index, 5) == "passage 5"


async def test_searches_that_are_cancelled_anywhere_leave_no_socket_open(
    pinecone: Pinecone,
) -> None:
    """While connecting, shaking hands, asking, reading and closing."""
    draw = random.Random(1)
    async with pinecone.opened() as index:
        await add(index)
        before = sockets()
        # What nobody closed would be closed by the collector, in the end.
        gc.disable()
        try:
            for _ in range(20):
                await _cancelled_midway(index, draw)
            await wait_until(lambda: sockets() <= before)
        finally:
            gc.enable()
        assert await nearest(index, 5) == "passage 5"


async def _cancelled_midway(index: PineconeVectorIndex, draw: random.Random) -> None:
    """Begin ten searches, and cancel each after its own number of rounds of the event loop."""
    searches = [asyncio.create_task(nearest(index, n)) for n in range(10)]
    lives = sorted((draw.randrange(80), n) for n in range(10))
    for life in range(80):
        await asyncio.sleep(0)
        for end, n in lives:
            if end == life:
                searches[n].cancel()
    await asyncio.gather(*searches, return_exceptions=True)


def sockets() -> int:
    """Return how many this process has open, the emulator's with them."""
    return len(psutil.Process().net_connections("tcp"))


async def test_no_connection_is_kept_between_operations(pinecone: Pinecone) -> None:
    async with pinecone.opened() as index:
        await add(index)
        await asyncio.gather(*(nearest(index, n) for n in range(20)))
        await wait_until(lambda: pinecone.emulator.connections() == 0)


@pytest.mark.parametrize(
    ("status", "attempts"), [(500, 3), (502, 3), (504, 3), (408, 3), (429, 5), (503, 5)]
)
async def test_what_may_pass_is_tried_again(pinecone: Pinecone, status: int, attempts: int) -> None:
    """Three times, and what was not begun once more than a connection may be lost."""
    async with pinecone.opened(reconnects=4) as index:
        await add(index)
        rule = Rule(fault="status", status=status, retry_after=0.01, times=attempts - 1)
        pinecone.emulator.follow([rule])
        assert await nearest(index, 1) == "passage 1"
        assert pinecone.emulator.count("/query") == attempts
        pinecone.emulator.follow([Rule(fault="status", status=status)])
        with pytest.raises(IndexUnavailable):
            await nearest(index, 1)
        assert pinecone.emulator.count("/query") == attempts


async def test_every_attempt_is_a_span_with_its_number_and_what_was_wrong(
    pinecone: Pinecone,
) -> None:
    async with pinecone.opened() as index:
        await add(index)
        pinecone.emulator.follow([Rule(fault="status", status=503, times=1)])
        async with recording() as recorded:
            await nearest(index, 1)
    spans = recorded.named(names.INDEX_CALL.format("search"))
    attempts = [(one.attributes or {}).get(names.INDEX_ATTEMPT) for one in spans]
    assert attempts == [1, 2]
    assert [one.status.description for one in spans] == [Kind.BUSY.value, None]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, IndexRefused),
        (401, IndexRefused),
        (402, IndexRefused),
        (403, IndexRefused),
        (404, IndexDamaged),
    ],
)
async def test_what_will_not_pass_is_tried_once(
    pinecone: Pinecone, status: int, expected: type[ServiceError]
) -> None:
    async with pinecone.opened() as index:
        await add(index)
        pinecone.emulator.follow([Rule(fault="status", status=status)])
        with pytest.raises(expected):
            await nearest(index, 1)
        assert pinecone.emulator.count("/query") == 1


async def test_a_limit_is_given_the_time_it_asks_for(pinecone: Pinecone) -> None:
    async with pinecone.opened() as index:
        await add(index)
        pinecone.emulator.follow([Rule(fault="status", status=429, retry_after=0.2, times=1)])
        assert await nearest(index, 1) == "passage 1"
        first, second = (one.at for one in pinecone.emulator.requests)
        assert second - first >= 0.2
        pinecone.emulator.follow([Rule(fault="status", status=429, retry_after=40)])
        with pytest.raises(IndexUnavailable) as refused:
            await nearest(index, 1)
        assert refused.value.retry_after == 40
        assert pinecone.emulator.count("/query") == 1


async def test_a_deadline_bounds_all_attempts(pinecone: Pinecone) -> None:
    async with pinecone.opened(connections=2, timeout=FOREVER) as index:
        await add(index)
        pinecone.emulator.follow([Rule(delay=FOREVER)])
        # Some of them do not even get a connection.
        with deadline.within(0.3):
            async with asyncio.timeout(FOREVER / 4):
                results = await asyncio.gather(
                    *(nearest(index, n) for n in range(6)), return_exceptions=True
                )
        assert [type(one) for one in results] == [IndexTooSlow] * 6
        await wait_until(lambda: pinecone.emulator.connections() == 0)
        assert pinecone.emulator.count("/query") <= 2


async def test_an_attempt_that_stands_still_is_given_up_for_the_next(pinecone: Pinecone) -> None:
    async with pinecone.opened(timeout=0.6) as index:
        await add(index)
        pinecone.emulator.follow([Rule(delay=FOREVER, times=1)])
        assert await nearest(index, 1) == "passage 1"


@pytest.mark.parametrize("fault", ["lose", "cut", "reset"])
async def test_writes_whose_answers_are_lost_happen_once(pinecone: Pinecone, fault: Fault) -> None:
    async with pinecone.opened(attempts=20) as index:
        pinecone.emulator.follow([Rule(fault=fault, share=0.4, seed=3)])
        await add(index)
        assert len(pinecone.stored()) == CHUNKS
        await index.unlink(TENANT, "d")
        assert not pinecone.stored()


async def test_a_dead_host_is_left_alone_and_found_again(pinecone: Pinecone) -> None:
    settings = {"breaker_failures": 4, "breaker_pause": 0.8, "reconnects": 2}
    async with pinecone.opened(**settings) as index:
        await add(index)
        pinecone.emulator.follow([Rule(fault="reset")])
        for _ in range(10):
            with pytest.raises(IndexUnavailable):
                await nearest(index, 1)
        with pytest.raises(IndexUnavailable, match="left alone") as refused:
            await nearest(index, 1)
        assert refused.value.retry_after is not None
        assert pinecone.emulator.count("/query") == 4
        pinecone.emulator.follow([])

        async def answers() -> bool:
            try:
                return await nearest(index, 1) == "passage 1"
            except IndexUnavailable:
                return False

        await wait_until(answers)


async def test_callers_in_a_hurry_do_not_turn_others_away(pinecone: Pinecone) -> None:
    async with pinecone.opened(breaker_failures=2) as index:
        await add(index)
        pinecone.emulator.follow([Rule(delay=FOREVER)])
        for _ in range(4):
            with deadline.within(0.05), pytest.raises(IndexTooSlow):
                await nearest(index, 1)
        pinecone.emulator.follow([])
        assert await nearest(index, 1) == "passage 1"


async def test_a_document_can_be_searched_once_it_is_linked_however_late_reads_are(
    pinecone: Pinecone,
) -> None:
    async with pinecone.opened() as index:
        pinecone.emulator.follow([], lag=0.3)
        await add(index)
        assert await nearest(index, 7) == "passage 7"


async def test_a_document_that_does_not_become_searchable_is_said_to_be_so(
    pinecone: Pinecone,
) -> None:
    async with pinecone.opened(settled=0.1) as index:
        pinecone.emulator.follow([], lag=FOREVER)
        with pytest.raises(IndexUnavailable, match="cannot be searched yet"):
            await add(index)


async def test_a_large_document_takes_several_requests_and_goes_whole(pinecone: Pinecone) -> None:
    number = 2 * MOST_RECORDS + 100
    async with pinecone.opened() as index:
        await add(index, number=number)
        assert pinecone.emulator.count("/vectors/upsert") == 3
        assert len(pinecone.stored()) == number
        ids = [chunk.id for chunk in passages(number)]
        assert await index.missing(TENANT, ids) == frozenset()
        # Another process reads the stored vectors back, by pages.
        async with pinecone.opened() as other:
            assert await other.link(TENANT, "e", ids)
        await index.unlink(TENANT, "d")
        assert len(pinecone.stored()) == number
        await index.unlink(TENANT, "e")
        assert not pinecone.stored()


async def test_chunks_that_many_documents_share_do_not_crowd_out_others(
    pinecone: Pinecone,
) -> None:
    async with pinecone.opened() as index:
        await add(index)
        shared = [passages()[0].id]
        for number in range(10):
            assert await index.link(TENANT, f"copy-{number}", shared)
        documents = ["d", *(f"copy-{number}" for number in range(10))]
        hits = await index.search(TENANT, vectors()[0], document_ids=documents, limit=5)
        assert len({hit.chunk.id for hit in hits}) == 5
        assert hits[0].chunk == passages()[0]


async def test_processes_that_start_at_once_make_one_index(pinecone: Pinecone) -> None:
    async def started() -> None:
        async with pinecone.opened() as index:
            await index.missing(TENANT, ["x"])

    # The first answer is lost after the index was made: then making it is refused as a conflict.
    pinecone.emulator.follow([Rule(path="/indexes", fault="lose", times=1)])
    await asyncio.gather(*(started() for _ in range(5)))
    await started()
    assert list(pinecone.emulator.indexes) == ["passages"]


async def test_an_index_for_other_vectors_is_refused(pinecone: Pinecone) -> None:
    async with pinecone.opened():
        pinecone.emulator.indexes["passages"].dimension = 99
    with pytest.raises(IndexMismatch, match="dimension 99"):
        async with pinecone.opened():
            pass
    with pytest.raises(IndexMismatch, match="dimension 99"):
        async with pinecone.opened(host=f"{pinecone.emulator.url}/index/passages"):
            pass


async def test_a_known_host_needs_no_control_plane(pinecone: Pinecone) -> None:
    async with pinecone.opened():
        pass
    pinecone.emulator.follow([Rule(path="/indexes/passages", fault="reset")])
    async with pinecone.opened(host=f"{pinecone.emulator.url}/index/passages") as index:
        await add(index)
        assert await nearest(index, 3) == "passage 3"


async def test_the_service_keeps_its_documents_at_pinecone(
    pinecone: Pinecone, tmp_path: Path, embedder: CountingEmbedder
) -> None:
    pinecone.emulator.follow([Rule(fault="reset", share=0.3, seed=1)])
    async with running_retrieval(
        tmp_path, pinecone=pinecone.options, embedder=embedder
    ) as retrieval:
        ana, bo = retrieval.user("ana"), retrieval.user("bo", tenant="other")
        sky = await ana.add("The sky over the desert is blue at noon.", name="sky")
        await ana.add("Bread is baked from flour, water and salt.", name="bread")
        assert not (await bo.page()).documents
        (best, *_) = await ana.search("What is bread made of?")
        assert (best.document_name, best.position) == ("bread", 0)
        assert await bo.search("What is bread made of?") == []
        await ana.delete(sky.document.document_id)
        assert {one.document_name for one in await ana.search("sky")} == {"bread"}
        await wait_until(lambda: len(pinecone.stored()) == 1)
    assert pinecone.emulator.ended("reset") > 0


async def test_the_service_starts_while_pinecone_is_away_and_finds_it_when_it_is_back(
    pinecone: Pinecone, tmp_path: Path, embedder: CountingEmbedder
) -> None:
    pinecone.emulator.follow([Rule(fault="reset")])
    options = replace(pinecone.options, reconnects=1)
    async with running_retrieval(tmp_path, pinecone=options, embedder=embedder) as retrieval:
        user = retrieval.user()
        assert not (await user.page()).documents
        put_off = (await user.add("Bread is baked.")).document
        assert put_off.state == pb.DOCUMENT_STATE_PENDING
        assert put_off.failure
        pinecone.emulator.follow([])
        *_, ready = await user.watch(put_off.document_id)
        assert ready.state == pb.DOCUMENT_STATE_READY
        assert await user.search("bread")


async def test_a_bad_key_is_said_at_the_start(pinecone: Pinecone) -> None:
    pinecone.emulator.follow([Rule(fault="status", status=401)])
    with pytest.raises(IndexRefused, match="key"):
        async with pinecone.opened():
            pass


async def test_the_service_says_that_a_key_is_needed(
    tmp_path: Path, pinecone: Pinecone, embedder: CountingEmbedder
) -> None:
    async with pinecone.opened():
        pass
    no_key = type(pinecone.options)(control_host=pinecone.emulator.url)
    with pytest.raises(BadIndexUrl, match="MAIEUTIC_PINECONE_API_KEY"):
        async with running_retrieval(tmp_path, pinecone=no_key, embedder=embedder):
            pass
