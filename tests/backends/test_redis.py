from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest
from redis.asyncio import Redis

from tests.backends.redis import RedisServer, redis_server, valkey


class Start(Protocol):
    def __call__(self, *, append_only: bool) -> AbstractAsyncContextManager[RedisServer]: ...


@pytest.mark.parametrize("start", [valkey, redis_server])
async def test_a_written_key_outlives_a_kill_when_the_server_appends(start: Start) -> None:
    async with start(append_only=True) as server:
        async with Redis.from_url(server.url) as client:
            await client.set("kept", "here")
        await server.kill9()
        assert not server.running
        await server.start()
        async with Redis.from_url(server.unix_url) as client:
            assert await client.get("kept") == b"here"


@pytest.mark.parametrize("start", [valkey, redis_server])
async def test_without_appending_a_restart_is_empty(start: Start) -> None:
    async with start(append_only=False) as server:
        async with Redis.from_url(server.url) as client:
            await client.set("kept", "here")
        await server.restart()
        async with Redis.from_url(server.url) as client:
            assert await client.get("kept") is None
