"""What an admin sees of stored records, through every service."""

import sqlite3
from contextlib import closing

import pytest
from redis.asyncio import Redis

from maieutic.v1 import admin_service_pb2 as pb, dead_letter_admin_service_pb2 as dead_pb
from maieutic_client import NotFound, PermissionDenied
from services.session.adapters import keys, private_valkey
from tests.conversation.backend import Backend
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

SOON = 20.0
PUT = """
INSERT INTO dead_letters
    (letter_id, message_id, routing_key, reason, headers, body, size, cut, redrives)
VALUES (?, ?, ?, 'put here', '{}', ?, ?, 0, 0)
"""
UNREADABLE = b"\x00\xffwhat a user wrote"
TITLE = "What only its user should read"


async def test_a_damaged_session_comes_back_from_the_archive_and_its_record_is_there_to_look_at(
    shared: Backend,
) -> None:
    socket = private_valkey._socket_path(shared.home / "valkey")
    async with shared.client() as client, Redis(unix_socket_path=str(socket)) as redis:
        session = await client.sessions.create(title=TITLE)
        stream = client.turns.stream(session.session_id, "How hot is tea?")
        await stream.result()

        async def archived() -> bool:
            return (await client.sessions.get(session)).HasField("expire_time")

        await wait_until(archived, SOON)
        await redis.setrange(keys.record_key(session.session_id), 8, "\x00\x00\x00")
        assert (await client.sessions.get(session.session_id)).title == TITLE

        (record,) = [
            record
            async for record in client.quarantine.list()
            if record.session_id == session.session_id
        ]
        assert record.damage == pb.RECORD_DAMAGE_CHECKSUM
        shown = await client.quarantine.get(record.record_id)
        assert TITLE.encode() not in shown.SerializeToString()
        whole = await client.quarantine.get(record.record_id, with_content=True)
        assert TITLE.encode() in whole.content
        async with shared.client(shared.stranger_key) as stranger:
            with pytest.raises(PermissionDenied):
                await stranger.quarantine.drop(record.record_id)
        await client.quarantine.drop(record.record_id)
        with pytest.raises(NotFound):
            await client.quarantine.get(record.record_id)


@pytest.mark.parametrize(
    ("routing_key", "queue"),
    [("interactive", "turns.interactive.v1"), ("turn.finished", "persist.v1")],
)
async def test_a_dead_letter_goes_to_its_consumer_again_and_comes_back_if_it_still_cannot_be_read(
    shared: Backend, routing_key: str, queue: str
) -> None:
    letter_id = routing_key[0] * 24
    with closing(sqlite3.connect(shared.home / "archive.sqlite", timeout=SOON)) as archive:
        row = (letter_id, f"message-{routing_key}", routing_key, UNREADABLE, len(UNREADABLE))
        archive.execute(PUT, row)
        archive.commit()
    wanted = dead_pb.DeadLetterFilter(routing_key=routing_key)
    async with shared.client(shared.stranger_key) as stranger:
        with pytest.raises(PermissionDenied):
            await stranger.dead_letters.redrive([letter_id])
    async with shared.client() as client:
        letters = client.dead_letters
        planned = await letters.redrive([letter_id], dry_run=True)
        assert [letter.queue for letter in planned.letters] == [queue]
        await letters.redrive([letter_id])

        async def died_again() -> bool:
            return bool([letter async for letter in letters.list(filter=wanted)])

        await wait_until(died_again, SOON)
        (again,) = [letter async for letter in letters.list(filter=wanted)]
        assert (again.message_id, again.redrive_count) == (f"message-{routing_key}", 1)
        assert again.reason != "put here"
        assert (await letters.get(again.letter_id, with_content=True)).content == UNREADABLE
        assert await letters.drop([letter_id, again.letter_id]) == 2
        with pytest.raises(NotFound):
            await letters.get(again.letter_id)
