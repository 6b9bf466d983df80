"""Opening a connection to a server of the store."""

import asyncio
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from services.session.adapters.address import Access, Place
from services.session.adapters.link import Command, Link, OnMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited, in seconds."""

    answer: float = 5.0
    """For each answer, and for what is tried again in all."""
    connect: float = 2.0
    """For a connection, with what the server says at its beginning."""


async def dial(
    place: Place, access: Access, patience: Patience, on_message: OnMessage | None = None
) -> Link:
    """Open a link; raises RedisError or OSError, also for what the server refuses."""
    link = Link(timeout=patience.answer, on_message=on_message)
    try:
        async with asyncio.timeout(min(patience.connect, patience.answer)):
            await _connect(link, place, access)
    except BaseException:
        link.close()
        raise
    return link


async def _connect(link: Link, place: Place, access: Access) -> None:
    loop = asyncio.get_running_loop()
    if place.port:
        opened: Coroutine[Any, Any, Any] = loop.create_connection(
            lambda: link, place.host, place.port, ssl=access.tls
        )
    else:
        opened = loop.create_unix_connection(lambda: link, place.host)
    transport, _ = await opened
    if place.port:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for reply in await link.request([*_greeting(access), ("PING",)]):
        if isinstance(reply, Exception):
            raise reply


def _greeting(access: Access) -> list[Command]:
    commands: list[Command] = []
    if access.password:
        user = (access.username,) if access.username else ()
        commands.append(("AUTH", *user, access.password))
    if access.database:
        commands.append(("SELECT", access.database))
    return commands
