"""Every service's gRPC server: health, reflection, one onion of concerns, a graceful stop."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.runtime.concerns import (
    Draining,
    errors_to_status,
    identified,
    traced,
    within_deadline,
)
from services.runtime.identity import Verifier
from services.runtime.interceptors import Around, AroundCalls

MEBIBYTE = 1024 * 1024
LOOK_AHEAD_BYTES = 16_384


class InsecureListener(Exception):
    """The server was asked to serve other machines in plain text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of a server's TLS; empty serves plain text, on loopback only."""

    certificate_file: str = ""
    """The server's certificate chain."""

    key_file: str = ""
    """The certificate's private key."""

    client_ca_file: str = ""
    """Certificate authority that clients must be signed by (mTLS); empty asks for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a gRPC server listens and stops."""

    listen: str = "127.0.0.1:0"
    """host:port or unix:/path; port 0 takes a free one."""

    allow_plaintext: bool = False
    """Serve other machines without TLS, as behind a mesh that encrypts."""

    tls: TlsFiles = field(default=TlsFiles())
    """Certificate files."""

    max_message_bytes: int = 4 * MEBIBYTE
    """Largest message in either direction."""

    max_connection_age: float = 300.0
    """Seconds after which a connection is renewed, so that clients find new replicas."""

    max_connection_age_grace: float = 900.0
    """Further seconds that calls on an old connection may take."""

    least_ping_interval: float = 10.0
    """Seconds between two pings of a client; one that pings more often is disconnected."""

    drain_delay: float = 0.0
    """Seconds between NOT_SERVING and the refusal of calls, for balancers to notice."""

    stream_grace: float = 1.0
    """Seconds that streams may go on once the server stops; their callers resume elsewhere."""

    grace: float = 10.0
    """Seconds that running calls may take once the server stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that answers calls."""

    port: int
    address: str
    """What a client on this machine dials."""
    health: health.aio.HealthServicer
    """To report a part as NOT_SERVING: `await running.health.set(name, status)`."""
    server: grpc.aio.Server

    async def wait(self) -> None:
        """Wait until cancelled."""
        # Awaited bare, a cancellation would reach the server's own shutdown and end running calls.
        await asyncio.shield(self.server.wait_for_termination())


@asynccontextmanager
async def serving(
    options: ServerOptions,
    register: Callable[[grpc.aio.Server], Sequence[str]],
    *,
    verifier: Verifier | None = None,
    arounds: Sequence[Around] = (),
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[RunningServer]:
    """Serve during the block; leaving it drains the server.

    *register* adds the servicers and returns the full names of their services. With a *verifier*
    every call but health and reflection needs an internal token; without one
    `current_identity()` raises. *arounds*, and then *interceptors*, run inside our own concerns:
    what they raise becomes a status.
    """
    draining = Draining()
    ours: list[Around] = [traced, errors_to_status, draining.around, within_deadline]
    if verifier is not None:
        ours.append(identified(verifier))
    server = grpc.aio.server(
        interceptors=[AroundCalls(*ours, *arounds), *interceptors],
        options=_channel_options(options),
    )
    services = register(server)
    checks = await _add_infrastructure(server, services)
    port = _bind(server, options)
    await server.start()
    try:
        address = _dialled(options.listen, port)
        yield RunningServer(port=port, address=address, health=checks, server=server)
    finally:
        await _drain(server, checks, draining, options)


async def _add_infrastructure(
    server: grpc.aio.Server, services: Sequence[str]
) -> health.aio.HealthServicer:
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for service in services:
        await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    shown = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(shown, server)
    return checks


def _bind(server: grpc.aio.Server, options: ServerOptions) -> int:
    """Open the listener; raises InsecureListener rather than serve strangers in plain text."""
    if options.tls.certificate_file:
        return server.add_secure_port(options.listen, _credentials(options.tls))
    if not (options.allow_plaintext or is_loopback(options.listen)):
        raise InsecureListener(
            f"{options.listen} is open to other machines and has no TLS: set a certificate and a "
            "key file, listen on 127.0.0.1, or allow plaintext if a mesh encrypts the traffic"
        )
    return server.add_insecure_port(options.listen)


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    pair = Path(tls.key_file).read_bytes(), Path(tls.certificate_file).read_bytes()
    clients = Path(tls.client_ca_file).read_bytes() if tls.client_ca_file else None
    return grpc.ssl_server_credentials(
        [pair], root_certificates=clients, require_client_auth=clients is not None
    )


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach *address* (host:port, or a unix socket)."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _dialled(listen: str, port: int) -> str:
    if listen.startswith("unix:"):
        return listen
    host = listen.rpartition(":")[0]
    return f"127.0.0.1:{port}" if host in {"0.0.0.0", "[::]", "::"} else f"{host}:{port}"  # noqa: S104 - compared, not bound


async def _drain(
    server: grpc.aio.Server,
    checks: health.aio.HealthServicer,
    draining: Draining,
    options: ServerOptions,
) -> None:
    """Leave the balancers, refuse new calls, end streams, let the others finish."""
    await checks.enter_graceful_shutdown()
    await asyncio.sleep(options.drain_delay)
    stopping = asyncio.create_task(server.stop(options.grace))
    await asyncio.wait([stopping], timeout=options.stream_grace)
    draining.end_streams()
    await stopping


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_connection_age_ms", round(options.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round(options.max_connection_age_grace * 1000)),
        # Clients may ping while idle, to notice a dead link before their next call.
        ("grpc.keepalive_permit_without_calls", 1),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            round(options.least_ping_interval * 1000),
        ),
        # Measured: without these two a handler runs thousands of messages ahead of a reader that
        # has stalled, with them a few hundred.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", LOOK_AHEAD_BYTES),
        # Two processes must not share a port by accident.
        ("grpc.so_reuseport", 0),
    ]
