"""Connections to the store: replies in order, losses that are seen, callers that go away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004
    MaxConnectionsError,
    TimeoutError,  # noqa: A004
)

from services.session.adapters.dialing import Patience
from services.session.adapters.keys import wake_channel
from services.session.adapters.link import MOST_UNSENT_BYTES, Link
from services.session.adapters.links import Links
from services.session.adapters.topologies import servers_at
from services.session.adapters.wake import RedisWakes
from services.session.ports import Pool
from tests.backends.redis import RedisServer, valkey
from tests.proxy import Direction, proxy
from tests.waiting import wait_until


@asynccontextmanager
async def links_at(
    url: str,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109 - of each answer
    connections: int = 4,
) -> AsyncIterator[Links]:
    patience = Patience(answer=timeout)
    async with servers_at(url, patience=patience, connections=connections) as servers:
        assert isinstance(servers, Links)
        yield servers


def links_to(
    server: RedisServer, *, port: int = 0, timeout: float = 5.0, connections: int = 4
) -> AbstractAsyncContextManager[Links]:
    url = f"redis://127.0.0.1:{port}/0" if port else server.url
    return links_at(url, timeout=timeout, connections=connections)


async def test_many_callers_share_a_link_and_each_gets_its_own_replies(
    valkey_server: RedisServer,
) -> None:
    async with links_to(valkey_server) as links:
        link = await links.shared()
        answers = [
            link.request([("ECHO", str(caller)), ("INCRBY", f"n{caller}", caller)])
            for caller in range(200)
        ]
        assert await asyncio.gather(*answers) == [[b"%d" % n, n] for n in range(200)]
        assert await links.shared() is link


class Wire(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.buffered = 0

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def abort(self) -> None:
        self.writes.append(b"abort")


async def test_what_is_asked_at_once_is_one_write() -> None:
    wire, link = Wire(), Link(timeout=5)
    link.connection_made(wire)
    answers = [link.request([("ECHO", word)]) for word in ("one", "two")]
    await asyncio.sleep(0)
    assert [b"one" in write and b"two" in write for write in wire.writes] == [True]
    link.data_received(b"+one\r\n+two\r\n")
    assert await asyncio.gather(*answers) == [[b"one"], [b"two"]]


async def test_what_was_not_sent_when_the_link_was_closed_fails_and_is_never_sent() -> None:
    wire, link = Wire(), Link(timeout=5)
    link.connection_made(wire)
    answer = link.request([("SET", "k", "v")])
    link.close()
    with pytest.raises(ConnectionError):
        await answer
    assert wire.writes == [b"abort"]


async def test_exactly_as_much_waits_on_a_link_as_may_and_a_large_request_alone() -> None:
    wire, link = Wire(), Link(timeout=5)
    link.connection_made(wire)
    size = len(b"*1\r\n$4\r\nPING\r\n")
    wire.buffered = MOST_UNSENT_BYTES - 2 * size
    for _ in range(2):
        link.request([("PING",)])
    with pytest.raises(MaxConnectionsError, match="bytes wait to be sent"):
        link.request([("PING",)])
    await asyncio.sleep(0)
    wire.buffered = 0
    link.request([("SET", "k", b"v" * MOST_UNSENT_BYTES)])
    with pytest.raises(MaxConnectionsError):
        link.request([("PING",)])
    link.close()


async def test_a_server_that_takes_nothing_fills_no_memory_and_loses_nothing_that_was_taken(
    valkey_server: RedisServer,
) -> None:
    async with (
        proxy(valkey_server.port) as way,
        links_to(valkey_server, port=way.port, timeout=30.0) as links,
    ):
        link, text = await links.shared(), b"t" * 1024 * 1024
        answers: list[asyncio.Future[list[Any]]] = []

        async def fill() -> None:
            while len(answers) < 200:
                answers.append(link.request([("APPEND", "taken", text), ("STRLEN", "taken")]))
                await asyncio.sleep(0)

        way.pause(Direction.TO_SERVER)
        with pytest.raises(MaxConnectionsError):
            await fill()
        with pytest.raises(MaxConnectionsError):
            await links.ask([("ECHO", text)])
        way.resume(Direction.TO_SERVER)
        lengths = [(await answer)[1] for answer in answers]
        assert lengths == [len(text) * (n + 1) for n in range(len(answers))]
        assert await links.ask([("DEL", "taken")]) == [1]
        assert await links.shared() is link


async def test_a_cancelled_caller_does_not_disturb_the_next_one(
    valkey_server: RedisServer,
) -> None:
    async with links_to(valkey_server) as links:
        link = await links.shared()
        leaving = asyncio.ensure_future(link.request([("ECHO", "first"), ("ECHO", "of two")]))
        leaving.cancel()
        assert await link.request([("ECHO", "second")]) == [b"second"]
        assert await links.shared() is link


async def test_an_error_reply_is_a_value_among_the_others(valkey_server: RedisServer) -> None:
    async with links_to(valkey_server) as links:
        link = await links.shared()
        await link.request([("SET", "text", "x")])
        wrong, right = await link.request([("INCR", "text"), ("GET", "text")])
        assert "not an integer" in str(wrong)
        assert right == b"x"


async def test_without_an_answer_in_time_the_link_is_lost_and_the_next_one_is_new(
    valkey_server: RedisServer,
) -> None:
    async with (
        proxy(valkey_server.port) as way,
        links_to(valkey_server, port=way.port, timeout=0.5) as links,
    ):
        link = await links.shared()
        way.pause(Direction.TO_CLIENT)
        with pytest.raises(TimeoutError):
            await link.request([("PING",)])
        assert not link.alive
        with pytest.raises(ConnectionError):
            link.request([("PING",)])
        way.resume(Direction.TO_CLIENT)
        assert await (await links.shared()).request([("PING",)]) == [b"PONG"]


async def test_what_waits_on_a_lost_link_fails_at_once(valkey_server: RedisServer) -> None:
    async with links_to(valkey_server) as links:
        link = await links.shared()
        (own_id,) = await link.request([("CLIENT", "ID")])
        waiting = link.request([("BLPOP", "never", 0)])
        async with Redis.from_url(valkey_server.url) as other:
            await other.client_kill_filter(_id=str(own_id))
        with pytest.raises(ConnectionError):
            await waiting
        assert await links.shared() is not link


async def test_no_more_links_are_lent_than_allowed(valkey_server: RedisServer) -> None:
    async with links_to(valkey_server, timeout=0.5, connections=1) as links:
        link = await links.lend()
        with pytest.raises(MaxConnectionsError):
            await links.lend()
        assert links.pool() == Pool(lent=1, waiting=0)
        waiting = asyncio.create_task(links.lend())
        await asyncio.sleep(0)
        assert links.pool() == Pool(lent=1, waiting=1)
        links.take_back(link)
        assert await waiting is link
        assert links.pool() == Pool(lent=1, waiting=0)


async def test_a_failed_opening_gives_its_place_back(valkey_server: RedisServer) -> None:
    async with (
        proxy(valkey_server.port) as way,
        links_to(valkey_server, port=way.port, timeout=0.5, connections=1) as links,
    ):
        await way.refuse()
        for _ in range(3):
            with pytest.raises((ConnectionError, OSError)):
                await links.lend()
        way.accept()
        links.take_back(await links.lend())


async def test_the_url_chooses_user_password_and_database() -> None:
    async with valkey() as server:
        async with Redis.from_url(server.url) as admin:
            await admin.config_set("requirepass", "s3cret word")
        host = f"127.0.0.1:{server.port}"
        good, bad = f"redis://:s3cret%20word@{host}/3", f"redis://:wrong@{host}/3"
        async with links_at(good) as links:
            link: Link = await links.shared()
            await link.request([("SET", "where", "three")])
            assert await link.request([("SELECT", 0), ("GET", "where")]) == [b"OK", None]
        async with links_at(bad) as links:
            with pytest.raises(AuthenticationError):
                await links.shared()


async def test_subscriptions_are_renewed_with_a_new_link_and_end_with_the_listener(
    valkey_server: RedisServer,
) -> None:
    turn = "t" * 48
    channel = wake_channel(turn)
    async with (
        Redis.from_url(valkey_server.url) as other,
        links_to(valkey_server) as links,
        RedisWakes.connect(links) as wakes,
    ):

        async def heard() -> bool:
            return bool(await other.publish(channel, b""))

        async with wakes.listen(turn) as wake, asyncio.timeout(10):
            await wait_until(heard)
            await wake.wait()
            await other.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
            wake.clear()
            await wake.wait()  # without a publish: something may have been missed
            wake.clear()
            assert await heard()
            await wake.wait()

        async def not_heard() -> bool:
            return not await heard()

        await wait_until(not_heard)
