"""Dead letters from their queue to the archive and back, and what no fault can break."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceStub
from services.persistence.dead_letter_ports import DeadLetter
from services.persistence.dead_letters import DeadLetterSweeper
from services.persistence.errors import ArchiveUnavailable
from services.persistence.settings import DeadLetterOptions
from services.runtime.bus import OutgoingMessage
from services.runtime.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServiceError,
    Unavailable,
    from_rpc,
)
from services.runtime.identity import acting_for
from services.runtime.memory import MemoryBus
from services.runtime.topology import maieutic_topology
from tests.contracts.archives import ArchiveHarness, sqlite_harness
from tests.persistence.office import Office, office
from tests.persistence.stories import Story
from tests.waiting import wait_until

if TYPE_CHECKING:
    from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceAsyncStub

JOBS = "turns.interactive.v1"
ALL = pb.DeadLetterFilter()
UNREADABLE = b"\x00\xffno job: what a user wrote"


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ArchiveHarness]:
    async with sqlite_harness(tmp_path) as opened:
        yield opened


@pytest.fixture
async def running(harness: ArchiveHarness) -> AsyncIterator[Office]:
    async with office(harness.archive) as opened:
        yield opened


@asynccontextmanager
async def admin(
    running: Office, *, service: str = "session", user: str = "admin"
) -> AsyncIterator["DeadLetterAdminServiceAsyncStub"]:
    """Call as the session service does for an admin; errors come as they are on the wire."""
    async with running.channel(service) as channel:
        with acting_for("default", user):
            yield DeadLetterAdminServiceStub(channel)


async def job(
    bus: MemoryBus, message_id: str = "job-1", body: bytes = UNREADABLE, key: str = "interactive"
) -> None:
    message = OutgoingMessage(
        exchange="turns",
        routing_key=key,
        body=body,
        message_id=message_id,
        headers={"baggage": "of the job"},
    )
    await bus.publish(message)


async def die(bus: MemoryBus, reason: str = "unreadable job", queue: str = JOBS) -> None:
    """Take the next job of a queue as a worker that cannot read it does."""
    async with bus.consume(queue, prefetch=1) as deliveries:
        await (await anext(deliveries)).reject(reason)


async def kept(running: Office, count: int = 1) -> list[pb.DeadLetter]:
    """Wait until so many letters are kept, and return all of them, the latest first."""
    found: list[pb.DeadLetter] = []

    async def are_kept() -> bool:
        request = pb.ListDeadLettersRequest(with_redriven=True)
        async with admin(running) as stub:
            found[:] = (await stub.ListDeadLetters(request)).letters
        return len(found) >= count

    await wait_until(are_kept)
    return found


async def refusal(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc(refused.value)


def redriving(*letter_ids: str, request_id: str = "r-1") -> pb.RedriveDeadLettersRequest:
    return pb.RedriveDeadLettersRequest(request_id=request_id, letter_ids=letter_ids)


async def test_a_job_that_nobody_can_read_is_kept_with_all_that_is_known(running: Office) -> None:
    await job(running.bus)
    await die(running.bus)
    (letter,) = await kept(running)
    assert (letter.message_id, letter.exchange, letter.routing_key) == (
        "job-1",
        "turns",
        "interactive",
    )
    assert (letter.queue, letter.reason, letter.size) == (JOBS, "unreadable job", len(UNREADABLE))
    assert letter.letter_id.isalnum()  # a dash would begin an option at a command line
    assert letter.expire_time.seconds - letter.create_time.seconds == 30 * 86_400
    async with admin(running) as stub:
        shown = await stub.GetDeadLetter(pb.GetDeadLetterRequest(letter_id=letter.letter_id))
        whole = await stub.GetDeadLetter(
            pb.GetDeadLetterRequest(letter_id=letter.letter_id, with_content=True)
        )
    assert shown.headers["baggage"] == "of the job"
    assert shown.first_bytes == UNREADABLE[:16]
    assert b"user wrote" not in shown.SerializeToString()
    assert whole.content == UNREADABLE
    await wait_until(running.drained)


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        ("turns", "suspect", "turns.suspect.v1"),
        ("jobs", "ingest", "jobs.ingest.v1"),
        ("results", "turn.finished", "persist.v1"),
        ("results", "", "persist.v1"),
    ],
)
def test_a_routing_key_tells_where_a_letter_came_from(exchange: str, key: str, queue: str) -> None:
    home = maieutic_topology().home_of(key)
    assert (home.exchange, home.queue) == (exchange, queue)


async def test_a_redriven_job_is_in_its_queue_again_as_it_was(running: Office) -> None:
    await job(running.bus)
    await die(running.bus)
    (letter,) = await kept(running)
    async with admin(running) as stub:
        request = redriving(letter.letter_id)
        request.dry_run = True
        assert (await stub.RedriveDeadLetters(request)).letters == [letter]
        assert running.bus.depth(JOBS) == 0
        request.dry_run = False
        assert (await stub.RedriveDeadLetters(request)).letters == [letter]
    async with running.bus.consume(JOBS, prefetch=1) as deliveries:
        delivery = await anext(deliveries)
        await delivery.ack()
    assert (delivery.body, delivery.message_id) == (UNREADABLE, "job-1")
    assert delivery.headers["baggage"] == "of the job"
    (marked,) = await kept(running)
    assert marked.HasField("redrive_time")


async def test_one_that_dies_again_is_a_letter_of_its_own(running: Office) -> None:
    """However fast: it is back before its redrive is marked."""
    await running.publish_raw("turn.finished", b"\xff", message_id="result-1")
    (letter,) = await kept(running)
    async with admin(running) as stub:
        await stub.RedriveDeadLetters(redriving(letter.letter_id))
    again, first = await kept(running, 2)
    assert (again.message_id, again.redrive_count) == ("result-1", 1)
    assert not again.HasField("redrive_time")
    assert first.HasField("redrive_time")
    assert running.marks.turns == {}


async def test_what_can_be_read_by_now_is_archived_once_however_often_it_is_redriven(
    running: Office, harness: ArchiveHarness
) -> None:
    story = Story("one")
    await dead_result(harness, story)
    async with admin(running) as stub:
        await stub.RedriveDeadLetters(pb.RedriveDeadLettersRequest(request_id="r", filter=ALL))
        await wait_until(lambda: story.turn_id(1) in running.marks.turns)
        await wait_until(running.drained)
        await marks_lost(harness)
        await stub.RedriveDeadLetters(pb.RedriveDeadLettersRequest(request_id="s", filter=ALL))
        await wait_until(running.drained)
    assert await harness.rows("SELECT count(*) FROM turns") == [(1,)]
    assert await harness.rows("SELECT count(*) FROM messages") == [(2,)]
    assert len(await kept(running)) == 1


async def dead_result(harness: ArchiveHarness, story: Story) -> None:
    """Keep a letter that a consumer of today can read."""
    body = story.finished().SerializeToString()
    letter = DeadLetter(
        letter_id="r" * 24,
        message_id="result-1",
        routing_key="turn.finished",
        reason="an older release could not read it",
        headers={},
        body=body,
        size=len(body),
        redrives=0,
    )
    await harness.archive.keep_dead_letter(letter)


async def marks_lost(harness: ArchiveHarness) -> None:
    """Take the mark away, as a crash before it does."""
    async with harness.database.writing() as connection:
        await connection.write("UPDATE dead_letters SET redrive_time = NULL", [()])


async def test_a_crash_between_publish_and_mark_costs_a_second_publish_of_the_same_id(
    harness: ArchiveHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, reached = MemoryBus(maieutic_topology()), asyncio.Event()

    async def never(letter_id: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(harness.archive, "mark_redriven", never)
        async with office(harness.archive, bus=bus) as running:
            await job(bus)
            await die(bus)
            (letter,) = await kept(running)
            async with admin(running) as stub:
                call = stub.RedriveDeadLetters(redriving(letter.letter_id))
                await reached.wait()
                call.cancel()
    assert bus.depth(JOBS) == 1
    async with office(harness.archive, bus=bus) as running:
        async with admin(running) as stub:
            await stub.RedriveDeadLetters(redriving(letter.letter_id))
            assert bus.depth(JOBS) == 2
        # Both die again, and are one letter: nothing tells them apart.
        await die(bus)
        await die(bus)
        again, first = await kept(running, 2)
        await wait_until(running.drained)
        assert await kept(running) == [again, first]
    assert again.redrive_count == 1
    assert first.HasField("redrive_time")


async def test_a_broker_that_does_not_confirm_leaves_the_letter_to_be_redriven(
    running: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.persistence.redriving.CONFIRM_SECONDS", 0.05)
    await job(running.bus)
    await die(running.bus)
    (letter,) = await kept(running)
    async with admin(running) as stub:
        for fault in (running.bus.refusing, running.bus.holding_confirms):
            with fault():
                error = await refusal(stub.RedriveDeadLetters(redriving(letter.letter_id)))
            assert isinstance(error, Unavailable)
            assert error.reason == "BUS_UNAVAILABLE"
        (waiting,) = await kept(running)
        assert not waiting.HasField("redrive_time")
        # The same request, again: it is carried out now, and then no more.
        first = await stub.RedriveDeadLetters(redriving(letter.letter_id))
        depth = running.bus.depth(JOBS)
        assert await stub.RedriveDeadLetters(redriving(letter.letter_id)) == first
        assert running.bus.depth(JOBS) == depth == 2


async def test_a_hundred_at_a_time_are_redriven_and_the_rest_is_told(
    harness: ArchiveHarness,
) -> None:
    async with office(harness.archive) as running:
        for number in range(103):
            await job(running.bus, f"job-{number}", key="long")
            await die(running.bus, queue="turns.long.v1")
        await wait_until(running.drained)
        assert await harness.rows("SELECT count(*) FROM dead_letters") == [(103,)]
        async with admin(running) as stub:
            request = pb.RedriveDeadLettersRequest(
                request_id="r-1", filter=pb.DeadLetterFilter(routing_key="long")
            )
            answer = await stub.RedriveDeadLetters(request)
            assert (len(answer.letters), answer.remaining_count) == (100, 3)
            assert answer.letters[0].message_id == "job-0"
            request.request_id = "r-2"
            rest = await stub.RedriveDeadLetters(request)
            assert [each.message_id for each in rest.letters] == ["job-100", "job-101", "job-102"]
            request.request_id = "r-3"
            assert await stub.RedriveDeadLetters(request) == pb.RedriveDeadLettersResponse()
        assert running.bus.depth("turns.long.v1") == 103


async def test_a_request_id_is_for_one_request(running: Office) -> None:
    for number in range(3):
        await job(running.bus, f"job-{number}")
        await die(running.bus)
    letters = [letter.letter_id for letter in await kept(running, 3)]
    async with admin(running) as stub:
        await stub.RedriveDeadLetters(redriving(letters[0]))
        error = await refusal(stub.RedriveDeadLetters(redriving(letters[1])))
        assert isinstance(error, AlreadyExists)
        drop = pb.DropDeadLettersRequest(request_id="r-1", letter_ids=[letters[0]])
        assert isinstance(await refusal(stub.DropDeadLetters(drop)), AlreadyExists)
        drop.request_id = "r-2"
        assert (await stub.DropDeadLetters(drop)).dropped_count == 1
        assert (await stub.DropDeadLetters(drop)).dropped_count == 1
        drop = pb.DropDeadLettersRequest(request_id="r-3", filter=ALL)
        assert (await stub.DropDeadLetters(drop)).dropped_count == 2
    async with admin(running, user="another") as stub:
        drop.request_id = "r-1"
        assert (await stub.DropDeadLetters(drop)).dropped_count == 0


async def test_bad_requests_are_told_their_field_and_unknown_letters_by_id(
    running: Office,
) -> None:
    missing = "m" * 24
    async with admin(running) as stub:
        unknown: tuple[Awaitable[object], ...] = (
            stub.GetDeadLetter(pb.GetDeadLetterRequest(letter_id=missing)),
            stub.RedriveDeadLetters(redriving(missing)),
        )
        for call in unknown:
            error = await refusal(call)
            assert isinstance(error, NotFound)
            assert missing in error.message
        both = pb.RedriveDeadLettersRequest(letter_ids=[missing], filter=ALL)
        nul = pb.DropDeadLettersRequest(filter=pb.DeadLetterFilter(reason="\0"))
        bad: tuple[tuple[Awaitable[object], str], ...] = (
            (stub.RedriveDeadLetters(both), "letter_ids"),
            (stub.DropDeadLetters(pb.DropDeadLettersRequest()), "letter_ids"),
            (stub.DropDeadLetters(nul), "filter.reason"),
            (stub.ListDeadLetters(pb.ListDeadLettersRequest(page_token="9" * 19)), "page_token"),
            (stub.ListDeadLetters(pb.ListDeadLettersRequest(page_token="²")), "page_token"),
            (stub.ListDeadLetters(pb.ListDeadLettersRequest(page_size=201)), "page_size"),
        )
        for call, field in bad:
            error = await refusal(call)
            assert isinstance(error, InvalidArgument)
            assert field in error.message
    async with admin(running, service="gateway") as stub:
        listing = stub.ListDeadLetters(pb.ListDeadLettersRequest())
        assert isinstance(await refusal(listing), PermissionDenied)


async def test_a_letter_too_large_is_kept_in_part_and_not_redriven(running: Office) -> None:
    large = b"x" * (4 * 1024 * 1024 + 1)
    await job(running.bus, body=large)
    await die(running.bus)
    (letter,) = await kept(running)
    assert (letter.cut, letter.size) == (True, len(large))
    async with admin(running) as stub:
        answer = await stub.GetDeadLetter(
            pb.GetDeadLetterRequest(letter_id=letter.letter_id, with_content=True)
        )
        assert len(answer.content) == 1024 * 1024
        error = await refusal(stub.RedriveDeadLetters(redriving(letter.letter_id)))
        assert isinstance(error, FailedPrecondition)
        request = pb.RedriveDeadLettersRequest(request_id="r-2", filter=ALL)
        assert await stub.RedriveDeadLetters(request) == pb.RedriveDeadLettersResponse()


async def test_text_that_no_database_keeps_does_not_stop_the_letters_behind_it(
    running: Office,
) -> None:
    await job(running.bus, "a\0b\udcff")
    await die(running.bus, "\0" * 5000)
    await job(running.bus, "next")
    await die(running.bus)
    following, hostile = await kept(running, 2)
    assert (hostile.message_id, len(hostile.reason)) == ("a\ufffdb?", 1000)
    assert following.message_id == "next"


async def test_letters_stay_on_the_bus_while_the_database_is_away(
    harness: ArchiveHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, tried = MemoryBus(maieutic_topology()), asyncio.Event()

    async def away(letter: object) -> bool:
        tried.set()
        raise ArchiveUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(harness.archive, "keep_dead_letter", away)
        async with office(harness.archive, bus=bus):
            await job(bus)
            await die(bus)
            await tried.wait()
    assert bus.depth("dead.v1") == 1
    async with office(harness.archive, bus=bus) as running:
        (letter,) = await kept(running)
    assert letter.message_id == "job-1"


async def test_a_letter_that_is_delivered_again_is_one(harness: ArchiveHarness) -> None:
    bus = MemoryBus(maieutic_topology())
    async with office(harness.archive, bus=bus) as running:
        await job(bus)
        await die(bus)
        first = await kept(running)
        await job(bus)
        await die(bus)
        await wait_until(running.drained)
        await job(bus, "after")
        await die(bus)
        assert (await kept(running, 2))[1:] == first


async def test_the_sweep_removes_what_was_kept_long_enough(harness: ArchiveHarness) -> None:
    await dead_result(harness, Story("one"))
    assert await DeadLetterSweeper(harness.archive, DeadLetterOptions()).sweep() == 0
    assert await DeadLetterSweeper(harness.archive, DeadLetterOptions(keep=-1.0)).sweep() == 1
