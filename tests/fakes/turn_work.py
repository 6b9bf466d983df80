"""A small working TurnWorkService: turns, fences, leases and event logs, in memory.

It refuses what the real one refuses. What a worker must never do, and what the real one could only
answer with FENCED, is noted in `violations`.
"""

import asyncio
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as pb
from maieutic.session.v1.record_pb2 import FinishedStep
from maieutic.session.v1.turn_work_service_pb2_grpc import (
    TurnWorkServiceServicer,
    add_TurnWorkServiceServicer_to_server,
)
from maieutic.v1 import turn_service_pb2 as turn_pb
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.message_pb2 import Message
from services.persistence.artifacts import artifact_id
from services.runtime.errors import Aborted, ServiceError, Unavailable, Unimplemented

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Hold = (
    pb.TurnEvents
    | pb.TurnHeartbeat
    | pb.CompleteStepRequest
    | pb.CompleteTurnRequest
    | pb.FailTurnRequest
    | pb.ListTurnMessagesRequest
    | pb.PutTurnArtifactRequest
    | pb.ReserveBudgetRequest
)


@dataclass(kw_only=True)
class Turn:
    """One turn as the live store has it."""

    job: RunTurn
    fence: int = 0
    claim_id: str = ""
    attempt: int = 0
    lease_end: float = 0.0
    log: list[turn_pb.TurnFrame] = field(default_factory=list)
    """Of the present fence."""
    finished: TurnFinished | None = None
    failures: list[pb.FailTurnRequest] = field(default_factory=list)
    steps: list[pb.CompleteStepRequest] = field(default_factory=list)
    hand_on: list[pb.HandOn] = field(default_factory=list)

    @property
    def findings(self) -> turn_pb.Findings:
        """What the finished steps have found, under ids."""
        found = turn_pb.Findings()
        for step in self.steps:
            found.MergeFrom(step.findings)
        for number, specification in enumerate(found.specifications):
            specification.specification_id = str(number)
        return found

    @property
    def leased(self) -> bool:
        return bool(self.claim_id) and self.finished is None

    @property
    def text(self) -> str:
        """What a watcher has on the screen."""
        shown = ""
        for frame in self.log:
            if frame.HasField("snapshot"):
                shown = frame.snapshot.text
            shown += frame.delta.text
        return shown


@dataclass(kw_only=True)
class LiveStore:
    """What the service keeps; the rest are faults that a test can switch on."""

    turns: dict[str, Turn] = field(default_factory=dict)
    window: list[Message] = field(default_factory=list)
    """Messages before the one to answer, for every turn."""
    known: turn_pb.Findings = field(default_factory=turn_pb.Findings)
    """Of every session."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What was put, by artifact id."""
    document_ids: list[str] = field(default_factory=list)
    lease: float = 10.0
    answer_bytes: int = 0
    """As the claim says; 0 as a service of the version before."""
    violations: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    claim_ids: list[str] = field(default_factory=list)
    requests: list[pb.RecordTurnEventsRequest] = field(default_factory=list)
    away: bool = False
    """Every call fails, and every stream breaks."""
    mute: bool = False
    """Streams take requests and answer nothing."""
    swallowed_replies: int = 0
    """So many times a batch is applied and the stream breaks before its answer."""
    lose_at_complete: bool = False
    """The next commit finds the turn gone."""
    lose_end_at_complete: bool = False
    """The next commit finds that the log has lost its last frame, and is out of step until more
    frames come."""
    lost_seq: int = -1
    holding_completes: asyncio.Event | None = None
    """Commits are applied, and answered once this is set."""
    holding_claims: asyncio.Event | None = None
    """Claims are decided, and answered once this is set."""
    holding_reservations: asyncio.Event | None = None
    """Claims are budgeted, and calls of models granted once this is set."""
    settled: list[pb.SettleBudgetRequest] = field(default_factory=list)
    batches_allowed: asyncio.Semaphore | None = None
    """Batches wait for this before they are looked at."""
    away_for_artifacts: bool = False
    """No file can be put."""
    old: bool = False
    """It is of the version before, which lists messages newest first only."""
    shown: int = 0
    """So many messages of the window are in a claim, besides the one to answer; 0 for all."""
    unreadable: bool = False
    """No claim is good for reading messages."""
    refusing: ServiceError | None = None
    """Every claim is answered with this."""
    streams: int = 0
    fences: "itertools.count[int]" = field(default_factory=lambda: itertools.count(100))

    def put(self, job: RunTurn) -> Turn:
        return self.turns.setdefault(job.turn_id, Turn(job=job))

    def fence_off(self, turn_id: str) -> None:
        """Move the fence, as a cancel or another worker's claim does."""
        turn = self.turns[turn_id]
        turn.fence, turn.claim_id, turn.log = next(self.fences), "somebody else", []

    def lose(self, turn_id: str) -> Turn:
        """Forget the turn, as a lost store does."""
        return self.turns.pop(turn_id)

    def verdict(self, hold: Hold) -> pb.WriteStatus.ValueType:
        if (turn := self.turns.get(hold.turn_id)) is None:
            return pb.WRITE_STATUS_MISSING
        held = turn.leased and (turn.fence, turn.claim_id) == (hold.fence, hold.claim_id)
        if held and getattr(hold, "finished_steps", 0) > len(turn.steps):
            return pb.WRITE_STATUS_MISSING
        return pb.WRITE_STATUS_APPLIED if held else pb.WRITE_STATUS_FENCED

    def append(self, events: pb.TurnEvents) -> None:
        """Store a batch; the same one again changes nothing."""
        log = self.turns[events.turn_id].log
        start = events.first_seq - 1
        known = log[start : start + len(events.frames)]
        if not events.frames or start > len(log):
            self.violations.append(f"gap: {len(log)} frames, then number {events.first_seq}")
        elif not known:
            log.extend(events.frames)
        elif list(events.frames) != known:
            self.violations.append(f"batch {events.first_seq} was changed before it was resent")

    def end(self, turn: Turn, outcome: turn_pb.TurnOutcome) -> TurnFinished:
        outcome.fence, outcome.attempts = turn.fence, turn.attempt
        turn.finished = TurnFinished(job=turn.job, outcome=outcome)
        return turn.finished


class FakeTurnWork(TurnWorkServiceServicer):
    def __init__(self, store: LiveStore) -> None:
        self._store = store

    async def ClaimTurn(
        self, request: pb.ClaimTurnRequest, context: Context
    ) -> pb.ClaimTurnResponse:
        store = self._enter("ClaimTurn")
        if store.refusing is not None:
            raise store.refusing
        store.claim_ids.append(request.claim_id)
        response = self._claimed(request)
        if store.holding_claims is not None:
            await store.holding_claims.wait()
        return response

    def _claimed(self, request: pb.ClaimTurnRequest) -> pb.ClaimTurnResponse:
        store = self._store
        turn = store.put(request.job)
        if turn.finished is not None:
            return pb.ClaimTurnResponse(finished=turn.finished)
        if turn.claim_id != request.claim_id:
            if turn.claim_id and time.monotonic() < turn.lease_end:
                return pb.ClaimTurnResponse(held=pb.TurnHeld())
            turn.fence, turn.claim_id, turn.log = next(store.fences), request.claim_id, []
            turn.attempt += 1
        turn.lease_end = time.monotonic() + store.lease
        return pb.ClaimTurnResponse(claim=self._claim(turn))

    def _claim(self, turn: Turn) -> pb.TurnClaim:
        claim = pb.TurnClaim(
            fence=turn.fence,
            attempt=turn.attempt,
            max_attempts=turn.job.max_attempts,
            answer_bytes=self._store.answer_bytes,
            budgeted=self._store.holding_reservations is not None,
            session=turn.job.session,
            window=[
                *self._store.window[-self._store.shown :],
                *([turn.job.message] if turn.job.message.text else []),
            ],
            findings=self._known(turn),
            finished_steps=[step.step for step in turn.steps],
            steps=[
                FinishedStep(
                    step=step.step,
                    findings=step.findings,
                    usage=step.usage,
                    artifacts=step.artifacts,
                )
                for step in turn.steps
            ],
        )
        claim.session.document_ids.extend(self._store.document_ids)
        claim.lease.FromMilliseconds(round(self._store.lease * 1000))
        claim.deadline.FromMilliseconds(
            round(time.time() * 1000) + turn.job.time_budget.ToMilliseconds()
        )
        return claim

    def _known(self, turn: Turn) -> turn_pb.Findings:
        known = turn.findings
        known.MergeFrom(self._store.known)
        return known

    async def RecordTurnEvents(
        self, request_iterator: AsyncIterator[pb.RecordTurnEventsRequest], context: Context
    ) -> AsyncIterator[pb.RecordTurnEventsResponse]:
        self._enter("RecordTurnEvents")
        self._store.streams += 1
        async for request in request_iterator:
            if self._store.batches_allowed is not None:
                await self._store.batches_allowed.acquire()
            if self._store.away:
                raise Unavailable("away")
            response = self._record(request)
            if self._store.swallowed_replies and request.events:
                self._store.swallowed_replies -= 1
                raise Unavailable("the answer is lost")
            if not self._store.mute:
                yield response

    def _record(self, request: pb.RecordTurnEventsRequest) -> pb.RecordTurnEventsResponse:
        store, response = self._store, pb.RecordTurnEventsResponse(batch_id=request.batch_id)
        store.requests.append(request)
        if len({events.turn_id for events in request.events}) < len(request.events):
            store.violations.append("two batches of one turn in one request")
        said: Sequence[pb.TurnEvents | pb.TurnHeartbeat]
        for said in (request.events, request.heartbeats):
            for one in said:
                verdict = store.verdict(one)
                if verdict == pb.WRITE_STATUS_MISSING:
                    response.missing_turn_ids.append(one.turn_id)
                elif verdict == pb.WRITE_STATUS_FENCED:
                    response.fenced_turn_ids.append(one.turn_id)
                elif isinstance(one, pb.TurnEvents):
                    store.append(one)
                else:
                    store.turns[one.turn_id].lease_end = time.monotonic() + store.lease
        return response

    async def PutTurnArtifact(
        self, request: pb.PutTurnArtifactRequest, context: Context
    ) -> pb.PutTurnArtifactResponse:
        store = self._enter("PutTurnArtifact")
        if store.away_for_artifacts:
            raise Unavailable("the archive is away")
        turn = store.turns.get(request.turn_id)
        if (status := store.verdict(request)) != pb.WRITE_STATUS_APPLIED or turn is None:
            return pb.PutTurnArtifactResponse(status=status)
        sha256 = hashlib.sha256(request.content).hexdigest()
        artifact = Artifact(
            artifact_id=artifact_id(request.turn_id, request.path, sha256),
            session_id=turn.job.message.session_id,
            turn_id=request.turn_id,
            path=request.path,
            media_type=request.media_type,
            size_bytes=len(request.content),
            sha256=sha256,
        )
        store.files[artifact.artifact_id] = request.content
        return pb.PutTurnArtifactResponse(status=status, artifact=artifact)

    async def ListTurnMessages(
        self, request: pb.ListTurnMessagesRequest, context: Context
    ) -> pb.ListTurnMessagesResponse:
        store = self._enter("ListTurnMessages")
        turn = store.turns.get(request.turn_id)
        if (status := store.verdict(request)) != pb.WRITE_STATUS_APPLIED or turn is None:
            return pb.ListTurnMessagesResponse(status=status)
        if store.unreadable:
            return pb.ListTurnMessagesResponse(status=pb.WRITE_STATUS_FENCED)
        if request.HasField("after_position") and not store.old:
            after = [one for one in store.window if one.position > request.after_position]
            page = after[: request.page_size]
            return pb.ListTurnMessagesResponse(status=status, messages=page, oldest_first=True)
        newest_first = [turn.job.message, *store.window[::-1]]
        start = int(request.page_token or 0)
        end = start + request.page_size
        return pb.ListTurnMessagesResponse(
            status=status,
            messages=newest_first[start:end],
            next_page_token=str(end) if end < len(newest_first) else "",
        )

    async def CompleteStep(
        self, request: pb.CompleteStepRequest, context: Context
    ) -> pb.CompleteStepResponse:
        store = self._enter("CompleteStep")
        turn = store.turns.get(request.turn_id)
        if (status := store.verdict(request)) != pb.WRITE_STATUS_APPLIED or turn is None:
            return pb.CompleteStepResponse(status=status)
        if request.step not in (step.step for step in turn.steps):
            turn.steps.append(request)
        return pb.CompleteStepResponse(status=status, findings=self._known(turn))

    async def CompleteTurn(
        self, request: pb.CompleteTurnRequest, context: Context
    ) -> pb.CompleteTurnResponse:
        store = self._enter("CompleteTurn")
        if store.lose_at_complete:
            store.lose_at_complete = False
            store.lose(request.turn_id)
        if store.lose_end_at_complete:
            store.lose_end_at_complete, store.lost_seq = False, request.last_seq
        if request.last_seq <= store.lost_seq:
            raise Aborted("the log ends before", reason="EVENTS_OUT_OF_STEP")
        turn = store.turns.get(request.turn_id)
        if turn is not None and turn.finished is not None and turn.claim_id == request.claim_id:
            return pb.CompleteTurnResponse(status=pb.WRITE_STATUS_APPLIED, finished=turn.finished)
        if (status := store.verdict(request)) != pb.WRITE_STATUS_APPLIED or turn is None:
            return pb.CompleteTurnResponse(status=status)
        if request.last_seq != len(turn.log):
            store.violations.append(f"completed at {request.last_seq} of {len(turn.log)}")
        outcome = turn_pb.TurnOutcome(
            state=turn_pb.TURN_STATE_COMPLETED,
            text=request.text,
            citations=request.citations,
            usage=[*(usage for step in turn.steps for usage in step.usage), *request.usage],
            findings=request.findings,
            artifacts=[
                *(artifact for step in turn.steps for artifact in step.artifacts),
                *request.artifacts,
            ],
            handed_on=[
                turn_pb.HandedOn(kind=one.kind, turn_id=f"{request.turn_id}-{one.kind}")
                for one in request.hand_on
            ],
        )
        turn.hand_on.extend(request.hand_on)
        response = pb.CompleteTurnResponse(status=status, finished=store.end(turn, outcome))
        if store.holding_completes is not None:
            await store.holding_completes.wait()
        return response

    async def FailTurn(self, request: pb.FailTurnRequest, context: Context) -> pb.FailTurnResponse:
        store = self._enter("FailTurn")
        turn = store.turns.get(request.turn_id)
        if (status := store.verdict(request)) != pb.WRITE_STATUS_APPLIED or turn is None:
            return pb.FailTurnResponse(status=status)
        if request.last_seq != len(turn.log):
            store.violations.append(f"failed at {request.last_seq} of {len(turn.log)}")
        turn.failures.append(request)
        if request.retryable and turn.attempt < turn.job.max_attempts:
            turn.claim_id = ""
            return pb.FailTurnResponse(status=status)
        outcome = turn_pb.TurnOutcome(
            state=turn_pb.TURN_STATE_FAILED,
            reason=request.reason,
            explanation=request.explanation,
            usage=[*(usage for step in turn.steps for usage in step.usage), *request.usage],
            artifacts=[artifact for step in turn.steps for artifact in step.artifacts],
        )
        return pb.FailTurnResponse(status=status, finished=store.end(turn, outcome))

    async def ReleaseTurn(
        self, request: pb.ReleaseTurnRequest, context: Context
    ) -> pb.ReleaseTurnResponse:
        store = self._enter("ReleaseTurn")
        turn = store.turns.get(request.turn_id)
        if turn is None:
            return pb.ReleaseTurnResponse(status=pb.WRITE_STATUS_MISSING)
        if (turn.fence, turn.claim_id) != (request.fence, request.claim_id):
            return pb.ReleaseTurnResponse(status=pb.WRITE_STATUS_FENCED)
        turn.claim_id, turn.attempt = "", turn.attempt - 1
        return pb.ReleaseTurnResponse(status=pb.WRITE_STATUS_APPLIED)

    async def ReserveBudget(
        self, request: pb.ReserveBudgetRequest, context: Context
    ) -> pb.ReserveBudgetResponse:
        store = self._enter("ReserveBudget")
        if store.holding_reservations is None:
            raise Unimplemented("no claim of this service is budgeted")
        await store.holding_reservations.wait()
        granted = pb.BudgetGranted(max_tokens=request.max_tokens)
        return pb.ReserveBudgetResponse(status=store.verdict(request), granted=granted)

    async def SettleBudget(
        self, request: pb.SettleBudgetRequest, context: Context
    ) -> pb.SettleBudgetResponse:
        self._enter("SettleBudget").settled.append(request)
        return pb.SettleBudgetResponse()

    async def MarkArchived(
        self, request: pb.MarkArchivedRequest, context: Context
    ) -> pb.MarkArchivedResponse:
        raise Unimplemented("no worker asks for this")

    async def EnsureTurns(
        self, request: pb.EnsureTurnsRequest, context: Context
    ) -> pb.EnsureTurnsResponse:
        raise Unimplemented("no worker asks for this")

    def _enter(self, method: str) -> LiveStore:
        self._store.calls[method] += 1
        if self._store.away:
            raise Unavailable("away")
        return self._store


def register_turn_work(store: LiveStore) -> Callable[[grpc.aio.Server], list[str]]:
    """Return what `serving` calls to add the service."""

    def register(server: grpc.aio.Server) -> list[str]:
        add_TurnWorkServiceServicer_to_server(FakeTurnWork(store), server)
        return ["maieutic.session.v1.TurnWorkService"]

    return register
