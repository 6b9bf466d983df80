"""The calls of the session service's TurnWorkService, kept up while the service is away."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.turn_work_service_pb2 import (
    WRITE_STATUS_APPLIED,
    ClaimTurnRequest,
    ClaimTurnResponse,
    CompleteStepRequest,
    CompleteStepResponse,
    CompleteTurnRequest,
    CompleteTurnResponse,
    FailTurnRequest,
    FailTurnResponse,
    HandOn,
    ListTurnMessagesRequest,
    ListTurnMessagesResponse,
    PutTurnArtifactRequest,
    ReleaseTurnRequest,
    ReleaseTurnResponse,
    ReserveBudgetRequest,
    ReserveBudgetResponse,
    SettleBudgetRequest,
)
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.message_pb2 import Message
from maieutic.v1.turn_service_pb2 import Usage
from services.agents.code_files import media_type
from services.agents.errors import ConversationUnreadable, LogBehind, ToolProblem
from services.agents.failures import TRANSIENT, Failure
from services.agents.ports import Answer
from services.agents.turn_log import TurnLog
from services.runtime import telemetry
from services.runtime.channel import MEBIBYTE
from services.runtime.errors import (
    Aborted,
    InvalidArgument,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unimplemented,
    from_rpc,
)

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceAsyncStub

LOG_BEHIND = "EVENTS_OUT_OF_STEP"
"""The reason of an Aborted that only more frames can cure: the log lacks some."""
REFUSALS = (Unauthenticated, PermissionDenied, Unimplemented)
"""What a deployment in the middle of a change may answer, by keys or versions that do not match."""
REASON_CHARACTERS = 100
EXPLANATION_CHARACTERS = 4000
MOST_SECONDS = 1e9
"""Of a wait, whatever a model asks for: more than any turn has."""
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0

Q = TypeVar("Q")
R = TypeVar("R")


class TurnWork:
    """What a worker asks of the session service.

    Every call is repeated with the same arguments while the service is away or refuses all that
    workers ask: claim ids and fences make that harmless. Only the caller ends it, by cancelling.
    Other errors are ServiceErrors.
    """

    def __init__(self, stub: "TurnWorkServiceAsyncStub", *, worker_id: str) -> None:
        self._stub = stub
        self._worker_id = worker_id

    async def claim(self, job: RunTurn, claim_id: str, *, from_lane: bool) -> ClaimTurnResponse:
        """Take the turn under a lease; *from_lane* says whether other turns run beside it."""
        request = ClaimTurnRequest(
            worker_id=self._worker_id,
            claim_id=claim_id,
            job=job,
            traceparent=telemetry.traceparent(),
            from_lane=from_lane,
        )
        return await _persistently(self._stub.ClaimTurn, request)

    async def messages(
        self, log: TurnLog, page_token: str, page_size: int
    ) -> tuple[Sequence[Message], str]:
        """See `ReadHistory`; not repeated: whoever asks goes on without an answer as well."""
        response = await self._said(log, page_token=page_token, page_size=page_size)
        if response.status != WRITE_STATUS_APPLIED:
            # The recorder hears the same, and what becomes of the turn is decided there.
            raise ToolProblem("The conversation cannot be read for the moment.")
        return response.messages, response.next_page_token

    async def messages_after(
        self, log: TurnLog, position: int, page_size: int
    ) -> Sequence[Message]:
        """See `ReadAfter`; not repeated."""
        try:
            response = await self._said(log, after_position=position, page_size=page_size)
        except ServiceError as error:
            raise ConversationUnreadable from error
        # A session service of the version before lists the newest ones, whatever it is asked.
        if response.status != WRITE_STATUS_APPLIED or not response.oldest_first:
            raise ConversationUnreadable
        return response.messages

    async def _said(self, log: TurnLog, **page: Any) -> ListTurnMessagesResponse:
        request = ListTurnMessagesRequest(
            turn_id=log.turn_id, fence=log.fence, claim_id=log.claim_id, **page
        )
        try:
            return await self._stub.ListTurnMessages(request)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def put_artifact(self, log: TurnLog, path: str, text: str) -> Artifact:
        """See `PutArtifact`."""
        if (size := len(content := text.encode())) > MEBIBYTE:
            # What no message has room for is refused as if it were only not the time for it.
            raise InvalidArgument("content", f"must have at most {MEBIBYTE} bytes, has {size}")
        while True:
            request = PutTurnArtifactRequest(
                turn_id=log.turn_id,
                fence=log.fence,
                claim_id=log.claim_id,
                path=path,
                media_type=media_type(path),
                content=content,
            )
            response = await _persistently(self._stub.PutTurnArtifact, request)
            if response.status == WRITE_STATUS_APPLIED:
                return response.artifact
            # The recorder hears the same, and stops this or claims the turn again.
            await asyncio.sleep(FIRST_PAUSE)

    async def complete_step(
        self, log: TurnLog, step: str, answer: Answer, finished_steps: int = 0
    ) -> CompleteStepResponse:
        """Commit what one agent of the routing slip has found, after so many steps."""
        request = CompleteStepRequest(
            turn_id=log.turn_id,
            fence=log.fence,
            claim_id=log.claim_id,
            step=step,
            findings=answer.findings,
            usage=answer.usage,
            artifacts=answer.artifacts,
            finished_steps=finished_steps,
        )
        return await _persistently(self._stub.CompleteStep, request)

    async def reserve(
        self, log: TurnLog, call: ReserveBudgetRequest, usage: Sequence[Usage]
    ) -> ReserveBudgetResponse:
        """Ask whether budgets allow a call; *usage* is what those before it have consumed."""
        request = ReserveBudgetRequest(
            turn_id=log.turn_id, fence=log.fence, claim_id=log.claim_id, usage=usage
        )
        request.MergeFrom(call)
        return await _persistently(self._stub.ReserveBudget, request)

    async def settle(self, turn_id: str, usage: Sequence[Usage]) -> None:
        """Tell budgets what an ended run has consumed; not repeated: they count with the most."""
        request = SettleBudgetRequest(turn_id=turn_id, usage=usage)
        try:
            await self._stub.SettleBudget(request)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def complete(
        self, log: TurnLog, last_seq: int, answer: Answer, finished_steps: int = 0
    ) -> CompleteTurnResponse:
        """Commit the answer; raises LogBehind if the log does not end with the last frame."""
        request = CompleteTurnRequest(
            turn_id=log.turn_id,
            fence=log.fence,
            claim_id=log.claim_id,
            last_seq=last_seq,
            finished_steps=finished_steps,
        )
        request.MergeFrom(told(answer))
        try:
            return await _persistently(self._stub.CompleteTurn, request)
        except Aborted as error:
            raise LogBehind from error

    async def fail(
        self,
        log: TurnLog,
        last_seq: int,
        failure: Failure,
        usage: Sequence[Usage] = (),
        finished_steps: int = 0,
    ) -> FailTurnResponse:
        """End the attempt."""
        request = FailTurnRequest(
            turn_id=log.turn_id,
            fence=log.fence,
            claim_id=log.claim_id,
            last_seq=last_seq,
            reason=_sendable(failure.reason, REASON_CHARACTERS),
            explanation=_sendable(failure.explanation, EXPLANATION_CHARACTERS),
            retryable=failure.retryable,
            retry_after=_duration(failure.retry_after),
            usage=usage,
            over_budget=failure.over_budget,
            text=log.text if failure.over_budget else "",
            finished_steps=finished_steps,
        )
        return await _persistently(self._stub.FailTurn, request)

    async def release(
        self, log: TurnLog, seconds: float = 0.0, usage: Sequence[Usage] = ()
    ) -> ReleaseTurnResponse:
        """Hand the turn back for so long; the attempt does not count."""
        request = ReleaseTurnRequest(
            turn_id=log.turn_id,
            fence=log.fence,
            claim_id=log.claim_id,
            retry_after=_duration(seconds),
            usage=usage,
        )
        return await _persistently(self._stub.ReleaseTurn, request)


def told(answer: Answer) -> CompleteTurnRequest:
    """Return what a commit says of an answer.

    Raises TypeError, ValueError and AttributeError for what is none.
    """
    return CompleteTurnRequest(
        text=answer.text,
        citations=answer.citations,
        usage=answer.usage,
        findings=answer.findings,
        artifacts=answer.artifacts,
        hand_on=[HandOn(kind=one.kind, instructions=one.instructions) for one in answer.hand_on],
    )


async def _persistently(call: Callable[[Q], Awaitable[R]], request: Q) -> R:
    longest = FIRST_PAUSE
    while True:
        try:
            return await call(request)
        except grpc.aio.AioRpcError as error:
            problem = from_rpc(error)
            # The recorder's stream meets the same refusal and logs it, once for all turns.
            passes = isinstance(problem, (*TRANSIENT, *REFUSALS))
            if not passes or problem.reason == LOG_BEHIND:
                raise problem from error
        # Random, so that many workers do not come back all at once.
        await asyncio.sleep((problem.retry_after or 0) + random.uniform(0, longest))  # noqa: S311 - no secret
        longest = min(2 * longest, LONGEST_PAUSE)


def _sendable(text: str, most: int) -> str:
    """Return a text of anybody's as a message can hold it."""
    return text[:most].encode(errors="replace").decode()


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromMicroseconds(round(min(seconds, MOST_SECONDS) * 1e6))
    return duration
