"""A turn service that breaks streams when told to, without a gateway in between."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from maieutic_client import Maieutic, RetryPolicy
from services.runtime.server import RunningServer, ServerOptions, serving
from tests.fakes.conversations import Conversations
from tests.fakes.session_service import register_conversations

EAGER = RetryPolicy(first_delay=0.001, longest_delay=0.002, give_up_after=20.0)


@dataclass(frozen=True, kw_only=True)
class Served:
    client: Maieutic
    state: Conversations
    server: RunningServer
    session_id: str


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    state = Conversations(owner=lambda: ("acme", "ann"))
    options = ServerOptions(grace=0.5, stream_grace=0.1)
    async with (
        serving(options, register_conversations(state)) as server,
        Maieutic.connect(server.address, api_key="mk_any", retry=EAGER) as client,
    ):
        session = await client.sessions.create()
        yield Served(client=client, state=state, server=server, session_id=session.session_id)
