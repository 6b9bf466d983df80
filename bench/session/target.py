"""What a load generator needs to know of the running service, and how it calls it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import grpc

from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceStub
from maieutic.v1.session_service_pb2_grpc import SessionServiceStub
from maieutic.v1.turn_service_pb2_grpc import TurnServiceStub
from services.runtime.identity import BEARER, METADATA_KEY, Signer

if TYPE_CHECKING:  # the stubs' asynchronous faces exist for type checkers alone
    from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceAsyncStub
    from maieutic.v1.session_service_pb2_grpc import SessionServiceAsyncStub
    from maieutic.v1.turn_service_pb2_grpc import TurnServiceAsyncStub

Metadata: TypeAlias = tuple[tuple[str, str], ...]

TENANT, USER = "acme", "ann"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running service, in a form that can be given to another process."""

    address: str
    redis_url: str
    bus_url: str
    keys: Mapping[str, str]
    """Private signing keys in PEM, by service."""
    processes: Mapping[str, int]
    """Process ids, by the part they play."""


class Caller:
    """Calls the service as a gateway and as a worker would, without what they would spend."""

    def __init__(self, channel: grpc.aio.Channel, keys: Mapping[str, str]) -> None:
        self.sessions: SessionServiceAsyncStub = SessionServiceStub(channel)
        self.turns: TurnServiceAsyncStub = TurnServiceStub(channel)
        self.work: TurnWorkServiceAsyncStub = TurnWorkServiceStub(channel)
        self._gateway = Signer("gateway", keys["gateway"])
        self._agents = Signer("agents", keys["agents"])

    @property
    def as_gateway(self) -> Metadata:
        """The metadata of a call for the one user there is."""
        return ((METADATA_KEY, BEARER + self._gateway.token(TENANT, USER)),)

    @property
    def as_worker(self) -> Metadata:
        """The metadata of a worker's call."""
        return ((METADATA_KEY, BEARER + self._agents.token("", "")),)


@asynccontextmanager
async def calling(target: Target) -> AsyncIterator[Caller]:
    """Keep a channel to the service open during the block."""
    async with grpc.aio.insecure_channel(target.address) as channel:
        yield Caller(channel, target.keys)
