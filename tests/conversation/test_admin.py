"""What an admin sees of stored records, through every service."""

import pytest
from redis.asyncio import Redis

from maieutic.v1 import admin_service_pb2 as pb
from maieutic_client import NotFound, PermissionDenied
from services.session.adapters import keys, private_valkey
from tests.conversation.backend import Backend
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

SOON = 20.0
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
