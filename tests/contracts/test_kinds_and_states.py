"""Every kind and state of a turn, and all that agents find, is known wherever it is told apart."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import pytest
from google.protobuf.descriptor import FieldDescriptor

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.session.v1.record_pb2 import FinishedStep, TurnPhase, TurnRecord
from maieutic.v1 import turn_service_pb2 as pb
from maieutic.v1.session_service_pb2 import ModelUsage, Session, SessionMode
from services.agents.adapters.offline import OfflineModel
from services.agents.agents.loop import LoopOptions
from services.agents.agents.shelf import Shelf
from services.agents.agents.tools import DirectTools
from services.agents.crew import Crew
from services.agents.entry_points import ExtensionOptions, load_extensions
from services.agents.main import _crew
from services.persistence.adapters.accounts import _kind
from services.persistence.facts import GOING_ON, TURN_FINISHED, read_fact
from services.persistence.statistics import EndedTurn, statistics
from services.runtime.topology import maieutic_topology
from services.session import summaries
from services.session.findings import hand_on, keep, named, together
from services.session.jobs import AnyRequest, Jobs, Limits
from services.session.lanes import TimeBudgets
from services.session.model import NO_PHASE, STUB, Caller, aside
from services.session.views import public_turn
from tests.session.drafts import IDS, SESSION_ID, T0, TENANT, TIMING, USER, Memory, job

if TYPE_CHECKING:  # a typing name of the generated stubs
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub

KINDS = [kind for kind in pb.TurnKind.values() if kind]
ENDS = [
    pb.TURN_STATE_COMPLETED,
    pb.TURN_STATE_FAILED,
    pb.TURN_STATE_CANCELLED,
    pb.TURN_STATE_INTERRUPTED,
    pb.TURN_STATE_ROLLED_BACK,
    pb.TURN_STATE_OVER_BUDGET,
]
NEWER = pb.TurnState.ValueType(99)
"""Of the next version."""
FINDINGS = [field.name for field in pb.Findings.DESCRIPTOR.fields]

R = TypeVar("R", bound=AnyRequest)


@pytest.fixture(scope="module")
def jobs() -> Mapping[pb.TurnKind.ValueType, RunTurn]:
    """Return a job of each kind, as the session service makes it."""
    make, caller = Jobs(IDS, Limits()), Caller(tenant=TENANT, user=USER)
    question = make.of(caller, _about(pb.StreamTurnRequest(text="Why?")))
    made = [
        question,
        make.of(caller, _about(pb.NextQuestionRequest())),
        make.analysis_of(question),
        make.code_of(caller, _about(pb.GenerateCodeRequest())),
        make.support_of(caller, _about(pb.AnalyzeRequest(text="So.")), "So."),
        summaries._job(question, SESSION_ID, 1, TIMING),
    ]
    return {one.kind: one for one in made}


def _about(request: R) -> R:
    request.session_id, request.request_id = SESSION_ID, "a"
    return request


@pytest.fixture(scope="module")
def crew() -> Crew:
    """Return the agents of a worker that is told nothing else."""
    documents: DocumentServiceAsyncStub = object()  # type: ignore[assignment]  # nobody asks it
    tools, shelf = DirectTools(documents, lambda _: []), Shelf(documents)
    extensions = load_extensions(ExtensionOptions())
    return _crew(OfflineModel(), tools, shelf, LoopOptions(), extensions)


@pytest.mark.parametrize("kind", KINDS, ids=pb.TurnKind.Name)
def test_each_kind_of_turn_has_a_job_a_lane_a_time_and_somebody_who_does_it(
    kind: pb.TurnKind.ValueType, jobs: Mapping[pb.TurnKind.ValueType, RunTurn], crew: Crew
) -> None:
    made = jobs[kind]
    assert made.lane in {binding.routing_key for binding in maieutic_topology().bindings}
    assert TimeBudgets().of(made.lane) == made.time_budget
    assert aside(made) == bool(made.steps) == (made.lane != "interactive")
    if made.steps:
        assert all(crew.for_step(step) for step in made.steps)
    else:
        assert all(crew.of(made, Session(mode=mode)) for mode in SessionMode.values())


@pytest.mark.parametrize("kind", KINDS, ids=pb.TurnKind.Name)
def test_the_accounts_of_each_kind_are_told_apart(kind: pb.TurnKind.ValueType) -> None:
    usage = pb.Usage(usage_id="c:1", model="m", input_tokens=1)
    finished = TurnFinished(
        job=job("a"), outcome=pb.TurnOutcome(state=pb.TURN_STATE_COMPLETED, usage=[usage])
    )
    finished.job.kind = kind
    (row,) = read_fact(TURN_FINISHED, finished.SerializeToString()).usage
    assert _kind(row.kind) == kind


def test_what_the_archive_takes_for_no_end_are_the_states_of_turns_that_go_on() -> None:
    ended = (NO_PHASE, STUB, TurnPhase.TURN_PHASE_TERMINAL)
    phases = [phase for phase in TurnPhase.values() if phase not in ended]
    going_on = {public_turn(TurnRecord(phase=phase)).state for phase in phases}
    assert going_on | {pb.TURN_STATE_UNSPECIFIED} == GOING_ON
    assert set(ENDS) | GOING_ON == set(pb.TurnState.values())


@pytest.mark.parametrize("state", [*ENDS, NEWER])
def test_the_archive_takes_and_counts_every_end(state: pb.TurnState.ValueType) -> None:
    finished = TurnFinished(job=job("a"), outcome=pb.TurnOutcome(state=state))
    row = read_fact(TURN_FINISHED, finished.SerializeToString()).turn
    assert row is not None
    ended = EndedTurn(state=row.state, attempts=1, start_time=None, finish_time=None)
    (counted,) = statistics([ended], list[ModelUsage]()).turns
    assert counted.state == state


def found(name: str) -> pb.Findings:
    """Return findings with something in one field, as an agent tells it."""
    findings = pb.Findings()
    field = pb.Findings.DESCRIPTOR.fields_by_name[name]
    value = getattr(findings, name)
    inner = value.add() if field.is_repeated else value
    inner.SetInParent()
    for one in type(inner).DESCRIPTOR.fields:
        if one.type == FieldDescriptor.TYPE_STRING:
            inner.MergeFrom(type(inner)(**{one.name: ["x"] if one.is_repeated else "x"}))
    return findings


@pytest.mark.parametrize("name", FINDINGS)
def test_what_a_step_finds_is_in_the_outcome_and_kept_or_handed_to_the_next_step(name: str) -> None:
    turn = TurnRecord(job=job("a"))
    told = named(found(name), turn, T0)
    outcome = together([pb.Findings(), told, pb.Findings()])
    assert outcome == told != pb.Findings()
    turn.finished_steps.append(FinishedStep(step="one", findings=told))
    memory = Memory.with_session()
    assert memory.session is not None
    memory.session.summary_turn_id, memory.session.summary_position = turn.job.turn_id, 9
    if name == "summary":
        told.summary.through_position = 9
    if name == "conflicts":  # is there only as long as its sides are
        sides = [told.conflicts[0].first, told.conflicts[0].second]
        for number, side in enumerate(sides):
            side.specification_id = side.value = str(number)
        told.specifications.extend(sides)
    memory.apply(lambda draft: keep(draft, told))
    known = pb.Findings()
    known.CopyFrom(memory.annotations.findings)
    hand_on(turn, known)
    assert getattr(known, name) != getattr(pb.Findings(), name)
