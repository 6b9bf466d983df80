"""One channel to each peer, which adds to every call what the peer needs to know.

`open_channel` gives a `grpc.aio.Channel` for the generated stubs. It wraps the methods rather than
using gRPC's client interceptors: those start each call in a task of their own, which delays
cancellation, hides the real call object and breaks `read` and `write` of streams.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import grpc
from opentelemetry.trace import Span, SpanKind

from services.runtime import deadline, names, telemetry
from services.runtime.identity import BEARER, METADATA_KEY, Signer, acting

MEBIBYTE = 1024 * 1024
LOOK_AHEAD_BYTES = 16_384
UNARY_TIMEOUT_SECONDS = 5.0
NO_FAILURE = frozenset({grpc.StatusCode.OK, grpc.StatusCode.CANCELLED})
"""A stream that is watched no longer is cancelled; that is how it normally ends."""

SERVICE_CONFIG: Mapping[str, Any] = MappingProxyType(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # Every method is idempotent by design (request ids, claim ids, fences), so all may retry.
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        # A peer that mostly fails is not asked again and again on top.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """PEM files of a client's TLS; without a CA file calls go in plain text."""

    ca_file: str = ""
    """Certificate authority that servers must be signed by; empty dials in plain text."""

    certificate_file: str = ""
    """The client's own certificate chain, for servers that ask for one (mTLS)."""

    key_file: str = ""
    """The certificate's private key."""

    server_name: str = ""
    """Name expected in the server's certificate, where it is not the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """How a channel behaves; the defaults fit every service."""

    max_message_bytes: int = 4 * MEBIBYTE
    """Largest message in either direction."""

    keepalive: float = 20.0
    """Seconds of silence after which the peer is pinged, also while no call runs."""

    keepalive_timeout: float = 5.0
    """Seconds without an answer to a ping after which the connection is dead."""

    tls: ClientTls = field(default=ClientTls())
    """Certificate files."""


@asynccontextmanager
async def open_channel(
    address: str,
    *,
    service: str,
    signer: Signer | None = None,
    timeout: float | None = UNARY_TIMEOUT_SECONDS,  # noqa: ASYNC109 - the default of calls
    options: ChannelOptions | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """Open the channel to *service* at *address* (host:port, dns:///name:port or unix:/path).

    Every call carries the trace context, what is left of the running call's deadline, and with a
    *signer* a token for `acting_for` or the current identity. A unary call without a timeout of
    its own gets *timeout* seconds; a stream gets only what is left of the deadline, if there is
    one. Calls still running when the block is left are cancelled.
    """
    options = options or ChannelOptions()
    arguments = _arguments(options)
    if options.tls.ca_file:
        credentials = _credentials(options.tls)
        inner = grpc.aio.secure_channel(address, credentials, options=arguments)
    else:
        inner = grpc.aio.insecure_channel(address, options=arguments)
    outgoing = _Outgoing(
        service=service, signer=signer, telemetry=telemetry.current(), recording=set()
    )
    async with _Channel(inner, outgoing, timeout) as channel:
        yield channel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outgoing:
    """What is added to each call, and how its end is recorded."""

    service: str
    signer: Signer | None
    telemetry: telemetry.Telemetry
    recording: set[asyncio.Task[None]]

    def metadata(self, given: Any, span: Span) -> tuple[tuple[str, str | bytes], ...]:
        added: dict[str, str] = {}
        telemetry.inject(added, span)
        if self.signer is not None:
            added[METADATA_KEY] = f"{BEARER}{self.signer.token(*acting())}"
        return (*(given or ()), *added.items())

    def started(self, method: str) -> Span:
        return self.telemetry.tracer.start_span(
            method, kind=SpanKind.CLIENT, attributes=self._attributes(method)
        )

    def record_end(self, call: grpc.aio.Call, method: str, span: Span) -> None:
        """Record the call once it is over, however it ends; called with the call just started."""
        started = time.perf_counter()

        async def record(ended: grpc.aio.Call) -> None:
            code = await ended.code()
            attributes = {**self._attributes(method), names.RPC_STATUS: code.name}
            seconds = time.perf_counter() - started
            self.telemetry.histogram(names.RPC_CLIENT_DURATION).record(seconds, attributes)
            span.set_attribute(names.RPC_STATUS, code.name)
            if code not in NO_FAILURE:
                telemetry.mark_failed(span, code.name)
            span.end()

        def ended(over: grpc.aio.Call) -> None:
            # The code of a call that is over is at hand, but only a coroutine gives it.
            task = asyncio.get_running_loop().create_task(record(over))
            self.recording.add(task)
            task.add_done_callback(self.recording.discard)

        call.add_done_callback(ended)

    def _attributes(self, method: str) -> dict[str, str]:
        return {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: method, names.PEER: self.service}


class _Method:
    """A method of the peer, called as gRPC's own multi-callables are."""

    def __init__(
        self, call: Callable[..., Any], method: str, outgoing: _Outgoing, timeout: float | None
    ) -> None:
        self._call = call
        self._method = method.removeprefix("/")
        self._outgoing = outgoing
        self._timeout = timeout

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        **others: Any,
    ) -> Any:
        """Start the call and return gRPC's own call object."""
        outgoing, span = self._outgoing, self._outgoing.started(self._method)
        try:
            call = self._call(
                request,
                timeout=deadline.bounded(self._timeout if timeout is None else timeout),
                metadata=outgoing.metadata(metadata, span),
                **others,
            )
        except BaseException:
            span.end()
            raise
        outgoing.record_end(call, self._method, span)
        return call


class _Channel(grpc.aio.Channel):
    """A channel whose methods are `_Method`s."""

    def __init__(
        self, channel: grpc.aio.Channel, outgoing: _Outgoing, unary_timeout: float | None
    ) -> None:
        self._channel = channel
        self._outgoing = outgoing
        self._unary_timeout = unary_timeout

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(self._channel.unary_unary, method, self._unary_timeout, args, kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(self._channel.stream_unary, method, None, args, kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(self._channel.unary_stream, method, None, args, kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(self._channel.stream_stream, method, None, args, kwargs)

    def _method(
        self,
        build: Callable[..., Any],
        method: str,
        timeout: float | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> _Method:
        return _Method(build(method, *args, **kwargs), method, self._outgoing, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Cancel the running calls, after *grace* seconds, and see their ends recorded."""
        await self._channel.close(grace)
        await asyncio.gather(*self._outgoing.recording)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()


def _credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=Path(tls.ca_file).read_bytes(),
        private_key=Path(tls.key_file).read_bytes() if tls.key_file else None,
        certificate_chain=Path(tls.certificate_file).read_bytes() if tls.certificate_file else None,
    )


def _arguments(options: ChannelOptions) -> list[tuple[str, str | int]]:
    arguments: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(dict(SERVICE_CONFIG))),
        # A name server has no say in how calls are retried.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", round(options.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", LOOK_AHEAD_BYTES),
        # After a peer's restart a client should not wait two minutes to try it again.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Replicas that replace others have new addresses: by default a name is not asked for them
        # within 30 seconds of the last time, for which every call would fail.
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        # Channels of one process must not share connections, or their options would mix.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if options.tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", options.tls.server_name))
    return arguments
