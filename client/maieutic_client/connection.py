"""The channel to the gateway, and what every call on it carries."""

import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

import grpc

from maieutic_client.errors import (
    InvalidArgument,
    MaieuticError,
    Unauthenticated,
    Violation,
    lifted,
)
from maieutic_client.refusals import Refusal
from maieutic_client.retry import Patience, RetryPolicy, passes_by_itself
from maieutic_client.tracing import Metadata, Tracing

UNARY_TIMEOUT_SECONDS = 30.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A dead link shows within half a minute, also while an answer is thought about.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Gateways that replace others have new addresses; by default they are not asked for within
    # 30 seconds of the last time.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # Without these two, a reader that stalls has thousands of frames sent to it all the same.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16_384),
    # Tries are counted and paced here, where a call's whole deadline is known.
    ("grpc.enable_retries", 0),
)

SENDABLE = re.compile(r"[!-~]+( +[!-~]+)*")
"""What gRPC can send beside a call: letters of ASCII."""

R = TypeVar("R")
P = TypeVar("P", bound="_Page")


class _Page(Protocol):
    """A part of a list."""

    next_page_token: str
    """Empty on the last page."""


class Connection:
    """A channel with the caller's key and user."""

    def __init__(
        self,
        address: str,
        *,
        api_key: str,
        user: str | None,
        credentials: grpc.ChannelCredentials | None,
        retry: RetryPolicy,
        tracing: Tracing,
    ) -> None:
        """Raise Unauthenticated, or InvalidArgument, for a key or a user that no call can carry."""
        if SENDABLE.fullmatch(api_key) is None:
            raise Unauthenticated("the API key is empty, or has a character that no key has")
        if user is not None and SENDABLE.fullmatch(user) is None:
            told = "must be a user's id: A-Z a-z 0-9 . _ : @ + = -"
            raise InvalidArgument("user", violations=[Violation(field="user", description=told)])
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self.retry = retry
        self.tracing = tracing
        named = () if user is None else (("x-maieutic-user", user),)
        self.metadata = (("authorization", f"Bearer {api_key}"), *named)

    async def call(
        self,
        method: "Callable[..., grpc.aio.UnaryUnaryCall[Any, R]]",
        request: Any,
        *,
        timeout: float = UNARY_TIMEOUT_SECONDS,  # noqa: ASYNC109 - it spans several tries
    ) -> R:
        """Return the answer; tries again what passes by itself, for *timeout* seconds at most."""
        span = self.tracing.started(request)
        try:
            return await self._answer(method, request, timeout, (*self.metadata, *span.metadata))
        except MaieuticError as error:
            span.end(type(error).__name__)
            raise
        finally:
            span.end()

    async def pages(
        self, method: "Callable[..., grpc.aio.UnaryUnaryCall[Any, P]]", request: Any
    ) -> AsyncIterator[P]:
        """Yield the pages of a list, from the one that *request* asks for to the last."""
        while True:
            page = await self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def repeated(
        self, method: "Callable[..., grpc.aio.UnaryStreamCall[Any, R]]", request: Any
    ) -> AsyncGenerator[R, None]:
        """Yield what a stream tells to its end; begins it again where the connection was lost."""
        patience = Patience(self.retry, None)
        while True:
            call = method(request, metadata=self.metadata)
            try:
                async for response in call:
                    patience.renew()
                    yield response
            except grpc.aio.AioRpcError as failed:
                await patience.after_break(lifted(failed))
            else:
                return
            finally:
                call.cancel()

    async def sent(
        self,
        method: "Callable[..., grpc.aio.StreamStreamCall[Any, R]]",
        requests: AsyncIterator[Any],
    ) -> AsyncGenerator[R, None]:
        """Yield what is told of requests that are sent once; raises why they are refused."""
        call = method(requests, metadata=self.metadata)
        refusal = Refusal(call)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as failed:
            raise lifted(await refusal.instead_of(failed)) from failed
        finally:
            call.cancel()

    async def _answer(
        self,
        method: "Callable[..., grpc.aio.UnaryUnaryCall[Any, R]]",
        request: Any,
        timeout: float,  # noqa: ASYNC109 - it spans several tries
        metadata: Metadata,
    ) -> R:
        patience = Patience(self.retry, timeout)
        while True:
            try:
                return await method(request, timeout=patience.left(), metadata=metadata)
            except grpc.aio.AioRpcError as failed:
                error = lifted(failed)
            if not passes_by_itself(error):
                raise error
            await patience.after(error)

    async def close(self) -> None:
        """End the calls that are still running, and the connection."""
        await self.channel.close()


def new_request_id() -> str:
    """Return the id of one logical request, the same for all of its tries."""
    return uuid.uuid4().hex
