"""One turn's stream, which outlives the connections it is read from."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from maieutic.v1 import turn_service_pb2 as pb
from maieutic_client.connection import Connection
from maieutic_client.resuming import ResumingStream

if TYPE_CHECKING:
    from maieutic.v1.turn_service_pb2_grpc import TurnServiceAsyncStub


StreamRequest: TypeAlias = (
    pb.StreamTurnRequest | pb.NextQuestionRequest | pb.AnalyzeRequest | pb.GenerateCodeRequest
)
"""What begins a turn and streams it."""


class TurnStream(ResumingStream):
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
        super().__init__(connection, cursor=cursor, timeout=timeout)
        self.turn_id = turn_id
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
        self._stub = stub
        self._begin = begin

    async def __anext__(self) -> pb.TurnFrame:
        while self.outcome is None:
            frame: pb.TurnFrame | None = await self._received()
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

    def _watched(self) -> str:
        return f"turn {self.turn_id}" if self.turn_id else ""

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
                self._has(_files_of(frame.outcome), frame.outcome.text)
                self._ended()

    def _finished(self) -> list[pb.TurnFile]:
        return [file for file in self.files.values() if file.HasField("artifact")]

    def _has(
        self, files: Iterable[pb.TurnFile], text: str = "", *, incomplete: bool = False
    ) -> None:
        self.files = {file.index: file for file in files}
        self.text, self.text_incomplete = text, incomplete


def _files_of(outcome: pb.TurnOutcome) -> list[pb.TurnFile]:
    """Return the files of a code turn that has ended, each under its place in the manifest."""
    planned = outcome.findings.manifest.files
    places = {file.path: place for place, file in enumerate(planned, start=1)}
    return [
        pb.TurnFile(
            path=artifact.path,
            index=places[artifact.path],
            total=len(planned),
            artifact=artifact,
        )
        for artifact in outcome.artifacts
        if artifact.path in places
    ]
