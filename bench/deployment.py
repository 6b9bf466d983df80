"""The five services on servers set as in production, with room for a thousand turns at once."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TypeAlias

from tests.backends.postgres import postgres
from tests.backends.rabbitmq import rabbitmq
from tests.backends.redis import redis_server
from tests.stack import RealStack, real_stack

Settings: TypeAlias = Mapping[str, Mapping[str, str]]
"""By service; variables without their prefix."""

ROOM: Settings = MappingProxyType(
    {
        "gateway": {"STREAMS_PER_TENANT": "2000", "CALLS_PER_TENANT": "2000"},
        "agents": {"INTERACTIVE_TURNS": "1024"},
    }
)
"""For 1000 turns of one tenant, in one process of each kind."""


@asynccontextmanager
async def deployment(
    settings: Settings, *, archive_connections: int = 50
) -> AsyncIterator[RealStack]:
    """Run everything during the block; *settings* go over those for load.

    Redis syncs its log each second. *archive_connections* is PostgreSQL's max_connections.
    """
    name = f"bench_{secrets.token_hex(4)}"
    async with (
        rabbitmq() as rabbit,
        postgres(max_connections=archive_connections) as archive,
        redis_server(append_only=True, fsync="everysec") as redis,
        real_stack(
            rabbit,
            archive,
            redis=redis,
            settings=over(_servers(rabbit.url, archive.url_of(name)), ROOM, settings),
            database_name=name,
        ) as stack,
    ):
        yield stack


def _servers(bus: str, archive: str) -> Settings:
    """Return the servers as they are: a proxy between would be measured, too."""
    on_the_bus = {name: {"BUS_URL": bus} for name in ("session", "retrieval", "agents")}
    return on_the_bus | {"persistence": {"BUS_URL": bus, "ARCHIVE_URL": archive}}


def over(*layers: Settings) -> Settings:
    """Return the settings of all layers, of which the last one counts."""
    services = {service for layer in layers for service in layer}
    return {
        service: {name: value for layer in layers for name, value in layer.get(service, {}).items()}
        for service in services
    }
