import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.proxy import Direction, Proxy, proxy
from tests.waiting import wait_until


@asynccontextmanager
async def echo_behind_proxy() -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1024):
            writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, proxy(server.sockets[0].getsockname()[1]) as link:
        yield link


async def talk(link: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", link.port)


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return not await reader.read(1)
    except ConnectionError:
        return True


async def test_bytes_pass_until_the_link_is_cut() -> None:
    async with echo_behind_proxy() as link:
        reader, writer = await talk(link)
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        assert link.open_links == 1
        await link.cut()
        assert await ended(reader)
        assert link.open_links == 0
        reader, writer = await talk(link)
        writer.write(b"pong")
        assert await reader.readexactly(4) == b"pong"
        assert link.accepted == 2


async def test_in_an_outage_every_link_ends_at_once() -> None:
    async with echo_behind_proxy() as link:
        old, _ = await talk(link)
        async with link.outage():
            assert await ended(old)
            new, _ = await talk(link)
            assert await ended(new)
        reader, writer = await talk(link)
        writer.write(b"back")
        assert await reader.readexactly(4) == b"back"


async def test_a_paused_direction_holds_its_bytes_and_loses_none() -> None:
    async with echo_behind_proxy() as link:
        reader, writer = await talk(link)
        async with link.paused(Direction.TO_CLIENT):
            writer.write(b"held")
            reading = asyncio.create_task(reader.readexactly(4))
            await asyncio.sleep(0.05)
            assert not reading.done()
        assert await reading == b"held"


async def test_the_end_of_one_side_passes_to_the_other() -> None:
    async with echo_behind_proxy() as link:
        reader, writer = await talk(link)
        writer.write(b"bye")
        writer.write_eof()
        assert await reader.read() == b"bye"
        await wait_until(lambda: link.open_links == 0)


async def test_a_delayed_direction_still_delivers() -> None:
    async with echo_behind_proxy() as link:
        link.delay(Direction.TO_SERVER, 0.02)
        reader, writer = await talk(link)
        writer.write(b"late")
        assert await reader.readexactly(4) == b"late"
