"""What callers ask for as the jobs of turns."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.session.v1.turn_work_service_pb2 import HandOn
from maieutic.v1 import turn_service_pb2 as pb
from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from services.runtime import telemetry
from services.runtime.errors import InvalidArgument
from services.session.beginning import MOST_WAITING
from services.session.ids import Ids
from services.session.lanes import ANALYSIS, INTERACTIVE, LONG, TimeBudgets
from services.session.model import Caller, user_message

MOST_INSTRUCTIONS = 32_768
"""Characters, as many as a request may have."""
ANALYSIS_STEPS = ("context", "conflict")
CODE_STEPS = ("code_plan",)
"""Those after it follow from the plan."""
SUPPORT_STEPS = ("citation_claims", "citation_verdicts")

BeginRequest: TypeAlias = pb.BeginTurnRequest | pb.StreamTurnRequest | pb.NextQuestionRequest
AnyRequest: TypeAlias = BeginRequest | pb.AnalyzeRequest | pb.GenerateCodeRequest

_KINDS: Mapping[type[BeginRequest], pb.TurnKind.ValueType] = MappingProxyType(
    {
        pb.BeginTurnRequest: pb.TURN_KIND_ASK,
        pb.StreamTurnRequest: pb.TURN_KIND_ASK,
        pb.NextQuestionRequest: pb.TURN_KIND_NEXT_QUESTION,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """How a turn runs beside the conversation."""

    kind: pb.TurnKind.ValueType
    lane: str
    steps: Sequence[str]


_ANALYSIS = _Side(kind=pb.TURN_KIND_ANALYSIS, lane=ANALYSIS, steps=ANALYSIS_STEPS)
_HANDED_ON: Mapping[pb.TurnKind.ValueType, _Side] = MappingProxyType(
    {pb.TURN_KIND_CODE: _Side(kind=pb.TURN_KIND_CODE, lane=LONG, steps=CODE_STEPS)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a turn is given."""

    max_attempts: int = 5
    oldest_unconfirmed: float = 30.0
    """Seconds that a job may wait for the broker before no more turns are taken on."""
    most_waiting: int = MOST_WAITING
    """In one session, behind the turn that runs."""
    time_budgets: TimeBudgets = field(default=TimeBudgets())
    budget: Budget | None = None
    """Of a turn whose request names none."""


class Jobs:
    """Makes jobs: the same request always gives the same turn."""

    def __init__(self, ids: Ids, limits: Limits) -> None:
        self._ids = ids
        self._limits = limits

    def of(self, caller: Caller, request: BeginRequest) -> RunTurn:
        """Return the job of a turn in a session's conversation."""
        text = "" if isinstance(request, pb.NextQuestionRequest) else request.text
        job = self._job(caller, request, text, INTERACTIVE)
        job.request_hash = _request_hash(request, text)
        job.busy_policy = request.busy_policy
        job.kind, job.agent = _KINDS[type(request)], _agent(request)
        return job

    def support_of(self, caller: Caller, request: pb.AnalyzeRequest, text: str) -> RunTurn:
        """Return the job that looks how documents support the answer *text*."""
        job = self._job(caller, request, text, ANALYSIS)
        job.request_hash = _support_hash(request)
        job.kind, job.collection = pb.TURN_KIND_SUPPORT, request.collection
        job.steps.extend(SUPPORT_STEPS)
        return job

    def code_of(self, caller: Caller, request: pb.GenerateCodeRequest) -> RunTurn:
        """Return the job that writes files."""
        job = self._job(caller, request, request.instructions, LONG)
        job.request_hash = _code_hash(request)
        job.kind = pb.TURN_KIND_CODE
        job.steps.extend(CODE_STEPS)
        return job

    def _job(self, caller: Caller, request: AnyRequest, text: str, lane: str) -> RunTurn:
        """Return what the jobs of all requests have in common."""
        turn_id = self._ids.turn(request.session_id, request.request_id)
        asked = request.HasField("time_budget")
        trace: dict[str, str] = {}
        telemetry.inject(trace)
        return RunTurn(
            tenant=caller.tenant,
            user_id=caller.user,
            turn_id=turn_id,
            request_id=request.request_id,
            lane=lane,
            message=user_message(turn_id, request.session_id, text),
            time_budget=request.time_budget if asked else self._limits.time_budgets.of(lane),
            max_attempts=self._limits.max_attempts,
            trace_context=trace,
            budget=request.budget if request.HasField("budget") else self._limits.budget,
        )

    def analysis_of(self, job: RunTurn) -> RunTurn:
        """Return the job that looks, beside a turn, for what the user has settled in it."""
        turn_id = self._ids.analysis(job.turn_id)
        analysis = self._beside(job, turn_id, job.message.text, _ANALYSIS)
        analysis.ClearField("budget")
        return analysis

    def handed_on(self, job: RunTurn, hand_on: HandOn) -> RunTurn:
        """Return the job of what a turn hands on; the same for each of a kind.

        Raises InvalidArgument for a kind that cannot be handed on.
        """
        if hand_on.kind == pb.TURN_KIND_ANALYSIS:
            return self.analysis_of(job)
        turn_id = self.handed_on_id(job.turn_id, hand_on.kind)
        text = hand_on.instructions[:MOST_INSTRUCTIONS] or job.message.text
        return self._beside(job, turn_id, text, _HANDED_ON[hand_on.kind])

    def handed_on_id(self, turn_id: str, kind: pb.TurnKind.ValueType) -> str:
        """Return the id of the turn of this kind that another one hands on; may raise as above."""
        if kind == pb.TURN_KIND_ANALYSIS:
            return self._ids.analysis(turn_id)
        if kind not in _HANDED_ON:
            raise InvalidArgument("hand_on.kind", "has to be ANALYSIS or CODE")
        return self._ids.handed_on(turn_id, pb.TurnKind.Name(kind))

    def _beside(self, job: RunTurn, turn_id: str, text: str, side: _Side) -> RunTurn:
        """Return the job of a turn that another one begins beside the conversation."""
        beside = RunTurn()
        beside.CopyFrom(job)
        beside.turn_id, beside.parent_turn_id = turn_id, job.turn_id
        beside.kind, beside.lane = side.kind, side.lane
        beside.time_budget.CopyFrom(self._limits.time_budgets.of(side.lane))
        beside.steps.extend(side.steps)
        beside.message.CopyFrom(user_message(turn_id, job.message.session_id, text))
        for own in ("session", "create_time", "predecessor_turn_id", "busy_policy", "agent"):
            beside.ClearField(own)
        return beside


def is_analysed(job: RunTurn, session: SessionRecord) -> bool:
    """Whether what the user says in the turn is searched for specifications."""
    return job.kind == pb.TURN_KIND_ASK and session.session.mode == SESSION_MODE_SOCRATIC


def require_sources(job: RunTurn, session: SessionRecord) -> None:
    """Raise InvalidArgument if the turn is about documents and none are named."""
    named = job.collection or session.session.document_ids
    if job.kind == pb.TURN_KIND_SUPPORT and not named:
        problem = "is empty, and the session has no documents: name one, or give the session some"
        raise InvalidArgument("collection", problem)


def _agent(request: BeginRequest) -> str:
    return "" if isinstance(request, pb.NextQuestionRequest) else request.agent


def _request_hash(request: BeginRequest, text: str) -> bytes:
    budget = request.time_budget.ToMilliseconds()
    parts = [request.session_id, text, str(request.busy_policy), str(budget)]
    if isinstance(request, pb.NextQuestionRequest):
        parts.append("next question")
    if agent := _agent(request):
        parts.append(agent)
    return _digest([*parts, *_budget_of(request)])


def _support_hash(request: pb.AnalyzeRequest) -> bytes:
    budget, which = request.time_budget.ToMilliseconds(), request.WhichOneof("answer") or ""
    answer = request.turn_id or request.text
    parts = ["analyze", request.session_id, which, answer, request.collection, str(budget)]
    return _digest([*parts, *_budget_of(request)])


def _budget_of(request: AnyRequest) -> Sequence[str]:
    """Return what tells the request's budget; nothing for one that has none."""
    if not request.HasField("budget"):
        return ()
    return (f"budget {request.budget.SerializeToString(deterministic=True).hex()}",)


def _code_hash(request: pb.GenerateCodeRequest) -> bytes:
    budget = request.time_budget.ToMilliseconds()
    parts = ["code", request.session_id, request.instructions, str(budget)]
    return _digest([*parts, *_budget_of(request)])


def _digest(parts: Iterable[str]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part.encode())
    return digest.digest()
