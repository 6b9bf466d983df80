"""A stream that outlives the connections it is read from."""

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from maieutic_client.connection import Connection
from maieutic_client.errors import DeadlineExceeded, MaieuticError, Unavailable, lifted
from maieutic_client.retry import Patience
from maieutic_client.tracing import CallSpan, Metadata


class ResumingStream(ABC):
    """What the streams of turns and of sessions have in common: they go on by their cursor."""

    def __init__(self, connection: Connection, *, cursor: str, timeout: float | None) -> None:
        self.cursor = cursor
        """Where to go on after the last frame."""
        self.connects = 0
        """How often a stream was opened: 1 if nothing broke."""
        self._connection = connection
        self._timeout = timeout
        self._patience: Patience | None = None
        self._call: Any = None
        self._span: CallSpan | None = None

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """Stop watching; what is watched goes on."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._ended()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @abstractmethod
    def _open(self, timeout: float | None) -> Any:
        """Begin the call that goes on after the cursor."""

    @abstractmethod
    def _watched(self) -> str:
        """Return what is watched, for errors; empty as long as nothing has begun."""

    async def _received(self) -> Any:
        """Return the next frame, or None if the stream broke and was waited for."""
        if self._patience is None:
            self._patience = Patience(self._connection.retry, self._timeout)
        try:
            frame = await self._read(self._patience)
        except asyncio.CancelledError:
            # gRPC has cancelled the call with the reader; who reads on takes it up by its cursor.
            self._call = None
            raise
        except grpc.aio.AioRpcError as failed:
            await self._recover(lifted(failed), self._patience)
            return None
        if frame is None:
            await self._recover(Unavailable("the stream ended too early"), self._patience)
            return None
        self._patience.renew()
        return frame

    async def _read(self, patience: Patience) -> Any:
        if self._call is None:
            self._call = self._open(patience.left())
            self.connects += 1
        response = await self._call.read()
        return None if response is grpc.aio.EOF else response.frame

    def _metadata(self, request: Message) -> Metadata:
        """Return what the stream carries; one span lasts over all its connections."""
        if self._span is None:
            self._span = self._connection.tracing.started(request)
        return (*self._connection.metadata, *self._span.metadata)

    async def _recover(self, error: MaieuticError, patience: Patience) -> None:
        self._call = None
        try:
            await self._wait_to_go_on(error, patience)
        except MaieuticError as final:
            self._ended(type(final).__name__)
            raise

    async def _wait_to_go_on(self, error: MaieuticError, patience: Patience) -> None:
        if isinstance(error, DeadlineExceeded) and (watched := self._watched()):
            message = f"{watched} goes on, but the time for watching it is spent"
            raise DeadlineExceeded(message) from error
        await patience.after_break(error)

    def _ended(self, failure: str = "") -> None:
        if self._span is not None:
            self._span.end(failure)
            self._span = None
