"""Connections that are made before they are needed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from services.retrieval.adapters import spares as module
from services.retrieval.adapters.single_use import SingleUse
from services.retrieval.adapters.spares import Spares
from tests.retrieval.vectors_at_pinecone import add, nearest, running_pinecone
from tests.waiting import wait_until

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Host:
    """Answers requests, and counts its connections."""

    url: str = ""
    came: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def spares(self, number: int) -> Spares:
        opening = partial(SingleUse.to, trusted=ssl.create_default_context())
        return Spares(number, opening, timeout=5.0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        self.writers.append(writer)
        if await reader.read(4096):
            writer.write(ANSWER)
        await reader.read()
        writer.close()

    def open(self) -> int:
        return sum(not writer.is_closing() for writer in self.writers)


@asynccontextmanager
async def running_host() -> AsyncIterator[Host]:
    host = Host()
    async with await asyncio.start_server(host.serve, "127.0.0.1", 0) as server:
        host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield host


async def ask(transport: SingleUse, url: str) -> str:
    async with httpx.AsyncClient(transport=transport) as client:
        return (await client.get(url)).text


async def test_a_request_goes_over_the_connection_that_was_made_for_it() -> None:
    async with running_host() as host, host.spares(1) as spares:
        assert await ask(spares.take(host.url), host.url) == "ok"
        await wait_until(lambda: len(spares._ready) == 1)
        taken = spares.take(host.url)
        assert taken.connected
        assert await ask(taken, host.url) == "ok"
        await wait_until(lambda: len(spares._ready) == 1)
        # For the first request, its spare, and the spare that follows it.
        await wait_until(lambda: host.came >= 3)
    await wait_until(lambda: host.open() == 0)
    assert host.came == 3


async def test_one_that_the_other_side_closed_is_not_given_away() -> None:
    async with running_host() as host, host.spares(1) as spares:
        assert await ask(spares.take(host.url), host.url) == "ok"
        await wait_until(lambda: len(spares._ready) == 1 and len(host.writers) == 2)
        for writer in host.writers:
            writer.close()
        await wait_until(lambda: not spares._ready[0].transport.connected)
        taken = spares.take(host.url)
        assert not taken.connected
        assert await ask(taken, host.url) == "ok"


async def test_one_that_nobody_takes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.05)
    async with running_host() as host, host.spares(2) as spares:
        assert await ask(spares.take(host.url), host.url) == "ok"
        await wait_until(lambda: host.came >= 2)
        await wait_until(lambda: host.open() == 0)
        assert await ask(spares.take(host.url), host.url) == "ok"


async def test_a_host_that_is_away_leaves_no_spare() -> None:
    async with running_host() as host:
        pass
    async with host.spares(1) as spares:
        transport = spares.take(host.url)
        await wait_until(lambda: not spares._tasks)
        with pytest.raises(httpx.ConnectError):
            await ask(transport, host.url)


async def test_searches_over_spares_find_what_others_find_and_leave_nothing_open(
    tmp_path: Path,
) -> None:
    async with running_pinecone(tmp_path) as pinecone:
        async with pinecone.opened(spares=3) as index:
            await add(index)
            for number in range(5):
                assert await nearest(index, number) == f"passage {number}"
            many = [nearest(index, number) for number in range(30)]
            assert await asyncio.gather(*many) == [f"passage {number}" for number in range(30)]
            allowed = pinecone.options.connections + 3
            assert pinecone.emulator.peak() <= allowed
        await wait_until(lambda: pinecone.emulator.connections() == 0)
