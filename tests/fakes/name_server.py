"""A name server that knows one name, whatever it is asked for."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

HEADER = struct.Struct(">2sHHHHH")
AUTHORITATIVE_ANSWER = 0x8580
ADDRESS, INTERNET, SECONDS = 1, 1, 5


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP with the IPv4 addresses of the moment."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        """What the name stands for; may be changed at any time."""
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        assert self._transport is not None
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        end = data.index(b"\0", HEADER.size) + 5  # the name, its type and its class
        question = data[HEADER.size : end]
        asked = int.from_bytes(question[-4:-2])
        found = self.addresses if asked == ADDRESS else []
        header = HEADER.pack(data[:2], AUTHORITATIVE_ANSWER, 1, len(found), 0, 0)
        self._transport.sendto(header + question + b"".join(map(_record, found)), addr)


@asynccontextmanager
async def name_server(addresses: Sequence[str]) -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(addresses), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()


def _record(address: str) -> bytes:
    the_name_asked_for = b"\xc0\x0c"
    data = socket.inet_aton(address)
    return the_name_asked_for + struct.pack(">HHIH", ADDRESS, INTERNET, SECONDS, len(data)) + data
