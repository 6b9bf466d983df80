"""Dead letters on real servers, and a redrive that is interrupted where it costs most."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aio_pika
import grpc
import pytest

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceStub
from services.runtime.identity import acting_for
from tests.backends.rabbitmq import RabbitNode
from tests.faults.steps import PATIENCE
from tests.proxy import Direction
from tests.stack import RealStack
from tests.waiting import wait_until

if TYPE_CHECKING:
    from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="package")

MESSAGE_ID = "a-job-that-nobody-can-read"
ALL = pb.DeadLetterFilter()


@asynccontextmanager
async def jobs_seen(rabbit: RabbitNode) -> AsyncIterator[list[str]]:
    """Publish an unreadable job, and note the message ids of the jobs from then on."""
    seen: list[str] = []

    async def note(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        seen.append(message.message_id or "")

    async with await aio_pika.connect(rabbit.url) as connection:
        channel = await connection.channel()
        jobs = await channel.get_exchange("turns", ensure=False)
        job = aio_pika.Message(b"\x00\xff", message_id=MESSAGE_ID, delivery_mode=2)
        await jobs.publish(job, "interactive")
        spy = await channel.declare_queue(exclusive=True)
        await spy.bind(jobs, "interactive")
        await spy.consume(note, no_ack=True)
        yield seen


@asynccontextmanager
async def admin(stack: RealStack) -> AsyncIterator["DeadLetterAdminServiceAsyncStub"]:
    """Call as the gateway does for an admin."""
    async with stack.stub_channel("session", caller="gateway") as channel:
        with acting_for("default", "admin"):
            yield DeadLetterAdminServiceStub(channel)


async def letters(stub: "DeadLetterAdminServiceAsyncStub", count: int) -> list[pb.DeadLetter]:
    """Wait until there are so many letters, and return them, the latest first."""
    found: list[pb.DeadLetter] = []

    async def are_kept() -> bool:
        request = pb.ListDeadLettersRequest(with_redriven=True)
        found[:] = (await stub.ListDeadLetters(request)).letters
        return len(found) >= count

    await wait_until(are_kept, PATIENCE, every=0.05)
    return found


async def redriven(
    stub: "DeadLetterAdminServiceAsyncStub", request: pb.RedriveDeadLettersRequest
) -> bool:
    """Ask again; False while nobody has found the archive again."""
    try:
        await stub.RedriveDeadLetters(request)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


async def test_a_redrive_whose_archive_is_killed_before_the_mark_is_done_again_without_harm(
    stack: RealStack,
) -> None:
    link = stack.bus["persistence"]
    async with jobs_seen(stack.backends.rabbit) as seen, admin(stack) as stub:
        (letter,) = await letters(stub, 1)
        assert (letter.queue, letter.message_id) == ("turns.interactive.v1", MESSAGE_ID)
        assert letter.reason.startswith("unreadable job")
        request = pb.RedriveDeadLettersRequest(request_id="r-1", letter_ids=[letter.letter_id])

        link.pause(Direction.TO_CLIENT)  # the broker has it, and its confirm does not arrive
        interrupted = asyncio.ensure_future(stub.RedriveDeadLetters(request))
        await wait_until(lambda: bool(seen), PATIENCE)
        await stack.kill9("persistence")
        await link.cut()
        link.resume(Direction.TO_CLIENT)
        await stack.start("persistence")
        await asyncio.wait([interrupted], timeout=PATIENCE)

        await wait_until(lambda: redriven(stub, request), PATIENCE)
        again, first = await letters(stub, 2)
        assert first.HasField("redrive_time")
        assert (again.message_id, again.redrive_count) == (MESSAGE_ID, 1)
        await wait_until(lambda: len(seen) >= 2, PATIENCE)
        assert set(seen) == {MESSAGE_ID}
        drop = pb.DropDeadLettersRequest(request_id="r-2", filter=ALL)
        assert (await stub.DropDeadLetters(drop)).dropped_count == 1
