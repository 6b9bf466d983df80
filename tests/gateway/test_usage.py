"""The UsageService through the gateway: to each its own, to admins everybody's."""

from datetime import UTC, datetime

import pytest

from maieutic.v1 import usage_service_pb2 as pb
from maieutic_client import InvalidArgument, Maieutic, NotFound
from tests.fakes.gateway import Stack


async def test_a_caller_has_all_rows_of_its_own(stack: Stack, client: Maieutic) -> None:
    sessions = [(await client.sessions.create()).session_id for _ in range(3)]
    turns = [
        await client.turns.begin(session, "word " * number)
        for number, session in enumerate(sessions, start=1)
    ]
    found = await client.usage.get(group_by=[pb.USAGE_KEY_SESSION])
    assert {row.session_id: row.total.input_tokens for row in found.rows} == {
        session: number for number, session in enumerate(sessions, start=1)
    }
    assert (found.total.call_count, found.total.input_tokens) == (3, 6)
    one = await client.usage.get(session=sessions[1], since=datetime(2026, 11, 1, tzinfo=UTC))
    assert (one.total.input_tokens, len(one.rows)) == (2, 1)
    assert (await client.usage.get(turn_id=turns[2].turn_id)).total.input_tokens == 3
    async with Maieutic.connect(stack.address, api_key=stack.stranger_key) as stranger:
        assert not (await stranger.usage.get()).rows
        with pytest.raises(ValueError, match="one of these at a time: session_id, turn_id"):
            await stranger.usage.get(session=sessions[0], turn_id=turns[0].turn_id)
        with pytest.raises(NotFound):
            await stranger.usage.get(session=sessions[0])


async def test_an_admin_sees_any_tenant_and_any_user_of_it(stack: Stack) -> None:
    for user in ("bob", "eve"):
        async with Maieutic.connect(stack.address, api_key=stack.backend_key, user=user) as client:
            await client.turns.begin(await client.sessions.create(), "one two")
    async with Maieutic.connect(stack.address, api_key=stack.admin_key) as admin:
        found = await admin.usage.get_tenant("acme", group_by=[pb.USAGE_KEY_USER])
        assert [row.user_id for row in found.rows] == ["bob", "eve"]
        assert (await admin.usage.get_tenant("acme", user="bob")).total.call_count == 1
        assert (await admin.usage.get_tenant()).total.call_count == 0
        with pytest.raises(InvalidArgument) as raised:
            await admin.usage.get_tenant("t" * 257, session="short")
        assert {violation.field for violation in raised.value.violations} == {
            "tenant",
            "session_id",
        }
