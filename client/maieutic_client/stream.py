"""One turn's stream, which outlives the connections it is read from."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import grpc

from maieutic.v1 import turn_service_pb2 as pb
from maieutic_client.connection import Connection
from maieutic_client.errors import DeadlineExceeded, MaieuticError, Unavailable, lifted
from maieutic_client.retry import Patience, link_broke, passes_by_itself
from maieutic_client.tracing import CallSpan, Metadata

if TYPE_CHECKING:
    from maieutic.v1.turn_service_pb2_grpc import TurnServiceAsyncStub


StreamRequest: TypeAlias = (
    pb.StreamTurnRequest | pb.NextQuestionRequest | pb.AnalyzeRequest | pb.GenerateCodeRequest
)
"""What begins a turn and streams it."""


class TurnStream:
    """The frames of one turn, each exactly once, the outcome last.

    When the connection breaks, the stream goes on after the last frame that it got, with the same
    deadline. Errors that do not pass by themselves are raised as `MaieuticError`; the turn itself
    goes on without a watcher, and `turns.watch(stream.turn_id, cursor=stream.cursor)` takes it up
    again.
    """

    def __init__(
        self,
        connection: Connection,
        stub: "TurnServiceAsyncStub",
        *,
        begin: StreamRequest | None = None,
        turn_id: str = "",
        cursor: str = "",
        timeout: float | None = None,
    ) -> None:
        self.turn_id = turn_id
        self.cursor = cursor
        """Where to go on after the last frame."""
        self.text = ""
        """The answer so far; whatever is void is gone from it."""
        self.files: dict[int, pb.TurnFile] = {}
        """By place, from 1: the files of a code turn so far. One without `artifact` is in progress,
        and `text` is its text."""
        self.text_incomplete = False
        """Some of `text` is missing, because the service has lost it; the outcome has it all."""
        self.turn: pb.Turn | None = None
        """The turn as it was accepted, once that frame has come."""
        self.attempt = 0
        """The attempt that `text` is from."""
        self.outcome: pb.TurnOutcome | None = None
        """How the turn ended, once it has."""
        self.connects = 0
        """How often a stream was opened: 1 if nothing broke."""
        self._connection = connection
        self._stub = stub
        self._begin = begin
        self._timeout = timeout
        self._patience: Patience | None = None
        self._call: Any = None
        self._span: CallSpan | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.TurnFrame:
        while self.outcome is None:
            frame = await self._received()
            if frame is not None and not self._known(frame):
                self._apply(frame)
                return frame
        raise StopAsyncIteration

    async def result(self) -> pb.TurnOutcome:
        """Read to the end and return how the turn ended."""
        async for _frame in self:
            pass
        if self.outcome is None:  # the loop above ends with an outcome only
            raise AssertionError(self)
        return self.outcome

    async def aclose(self) -> None:
        """Stop watching; the turn goes on."""
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

    async def _received(self) -> pb.TurnFrame | None:
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
            await self._recover(Unavailable("the stream ended before the turn"), self._patience)
            return None
        self._patience.renew()
        return frame

    async def _read(self, patience: Patience) -> pb.TurnFrame | None:
        if self._call is None:
            self._call = self._open(patience.left())
            self.connects += 1
        response = await self._call.read()
        return None if response is grpc.aio.EOF else response.frame

    def _open(self, timeout: float | None) -> Any:
        if self._begin is not None and not self.turn_id:
            metadata = self._metadata(self._begin)
            return self._beginning(self._begin)(self._begin, timeout=timeout, metadata=metadata)
        request = pb.WatchTurnRequest(turn_id=self.turn_id, cursor=self.cursor)
        return self._stub.WatchTurn(request, timeout=timeout, metadata=self._metadata(request))

    def _beginning(self, request: StreamRequest) -> Any:
        """Return the call that takes the request."""
        if isinstance(request, pb.NextQuestionRequest):
            return self._stub.NextQuestion
        if isinstance(request, pb.AnalyzeRequest):
            return self._stub.Analyze
        if isinstance(request, pb.GenerateCodeRequest):
            return self._stub.GenerateCode
        return self._stub.StreamTurn

    def _metadata(self, request: StreamRequest | pb.WatchTurnRequest) -> Metadata:
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
        if isinstance(error, DeadlineExceeded) and self.turn_id:
            message = f"turn {self.turn_id} goes on, but the time for watching it is spent"
            raise DeadlineExceeded(message) from error
        if not (passes_by_itself(error) or link_broke(error)):
            raise error
        await patience.after(error)

    def _ended(self, failure: str = "") -> None:
        if self._span is not None:
            self._span.end(failure)
            self._span = None

    def _known(self, frame: pb.TurnFrame) -> bool:
        """Return whether it is the accepted frame of a turn that began on an earlier stream."""
        return frame.WhichOneof("event") == "accepted" and self.turn is not None

    def _apply(self, frame: pb.TurnFrame) -> None:
        self.turn_id = frame.turn_id or self.turn_id
        self.cursor = frame.cursor or self.cursor
        match frame.WhichOneof("event"):
            case "accepted":
                self.turn = frame.accepted.turn
                self.turn_id = self.turn_id or frame.accepted.turn.turn_id
            case "started":
                self.attempt = frame.started.attempt
                self._has(self._finished())
            case "delta":
                self.text += frame.delta.text
            case "snapshot":
                self._has(frame.snapshot.files, frame.snapshot.text)
            case "gap":
                self.attempt = frame.gap.attempt or self.attempt
                self._has(frame.gap.files, frame.gap.text, incomplete=frame.gap.text_incomplete)
            case "file":
                others = (one for one in self.files.values() if one.index != frame.file.index)
                self._has((*others, frame.file))
            case "outcome":
                self.outcome = frame.outcome
                self._has(self._finished(), frame.outcome.text)
                self._ended()

    def _finished(self) -> list[pb.TurnFile]:
        return [file for file in self.files.values() if file.HasField("artifact")]

    def _has(
        self, files: Iterable[pb.TurnFile], text: str = "", *, incomplete: bool = False
    ) -> None:
        self.files = {file.index: file for file in files}
        self.text, self.text_incomplete = text, incomplete
