"""A small TurnWorkService that notes what the archive tells it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as pb
from maieutic.session.v1.turn_work_service_pb2_grpc import (
    TurnWorkServiceServicer,
    add_TurnWorkServiceServicer_to_server,
)
from services.runtime.errors import Internal, Unavailable, Unimplemented
from services.runtime.identity import current_identity

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(kw_only=True)
class Marks:
    """What was heard; the last two are faults that a test can switch on."""

    turns: dict[str, TurnFinished] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    ensured: list[RunTurn] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    """Turns that the live store does not have."""
    callers: set[tuple[str, str]] = field(default_factory=set)
    """Service and tenant of whoever called."""
    marks: int = 0
    away: bool = False
    refused: set[str] = field(default_factory=set)
    """Turns on which every request fails as on a bug."""


class MarksServicer(TurnWorkServiceServicer):
    """The two methods that the archive calls."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    async def MarkArchived(
        self, request: pb.MarkArchivedRequest, context: Context
    ) -> pb.MarkArchivedResponse:
        self._called()
        self._marks.marks += 1
        if any(row.job.turn_id in self._marks.refused for row in request.turns):
            raise Internal("a bug")
        self._marks.turns |= {row.job.turn_id: row for row in request.turns}
        self._marks.sessions |= {each.session_id: each.revision for each in request.sessions}
        self._marks.accepted |= set(request.accepted_turn_ids)
        return pb.MarkArchivedResponse()

    async def EnsureTurns(
        self, request: pb.EnsureTurnsRequest, context: Context
    ) -> pb.EnsureTurnsResponse:
        self._called()
        self._marks.ensured += request.jobs
        rebuilt = [job.turn_id for job in request.jobs if job.turn_id in self._marks.lost]
        self._marks.lost -= set(rebuilt)
        return pb.EnsureTurnsResponse(rebuilt_turn_ids=rebuilt)

    def _called(self) -> None:
        identity = current_identity()
        self._marks.callers.add((identity.service, identity.tenant))
        if self._marks.away:
            raise Unavailable("the session service is away")

    async def ClaimTurn(self, request: pb.ClaimTurnRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    def RecordTurnEvents(self, request_iterator: Any, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    async def ListTurnMessages(self, request: pb.ListTurnMessagesRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    async def PutTurnArtifact(self, request: pb.PutTurnArtifactRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    async def CompleteStep(self, request: pb.CompleteStepRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    async def ReserveBudget(self, request: pb.ReserveBudgetRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    async def SettleBudget(self, request: pb.SettleBudgetRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    async def CompleteTurn(self, request: pb.CompleteTurnRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    async def FailTurn(self, request: pb.FailTurnRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")

    async def ReleaseTurn(self, request: pb.ReleaseTurnRequest, context: Context) -> Any:
        raise Unimplemented("not the archive's")


def register_marks(marks: Marks) -> Callable[[grpc.aio.Server], Sequence[str]]:
    """Return what adds the service to a server."""

    def register(server: grpc.aio.Server) -> Sequence[str]:
        add_TurnWorkServiceServicer_to_server(MarksServicer(marks), server)
        return ["maieutic.session.v1.TurnWorkService"]

    return register
