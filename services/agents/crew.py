"""Which agent does what."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.v1.session_service_pb2 import Session, SessionMode
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_ASK,
    TURN_KIND_NEXT_QUESTION,
    TURN_KIND_UNSPECIFIED,
    TurnKind,
)
from services.agents.ports import Agent, AgentContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The agents of a worker. Any of them serves any number of turns at once."""

    answering: Mapping[SessionMode.ValueType, Agent]
    """Who answers what the user says, by the session's mode."""
    questioning: Agent | None = None
    """Who asks the next question where the user said nothing."""
    steps: Mapping[str, Agent]
    """Who takes the steps of routing slips, by the name up to a colon."""
    named: Mapping[str, Agent]
    """Who may be asked for by name."""
    concluding: Mapping[TurnKind.ValueType, Callable[[AgentContext], str]] = field(
        default_factory=dict
    )
    """What a turn says at the end of its routing slip, where it says anything."""

    def of(self, job: RunTurn, session: Session) -> Agent | None:
        """Return who takes the turn; None if nobody here can."""
        if job.kind in (TURN_KIND_UNSPECIFIED, TURN_KIND_ASK):
            return self.named.get(job.agent) if job.agent else self.answering.get(session.mode)
        return self.questioning if job.kind == TURN_KIND_NEXT_QUESTION else None

    def for_step(self, step: str) -> Agent | None:
        """Return who takes the step; None if nobody here can."""
        return self.steps.get(step.partition(":")[0])

    def conclusion(self, job: RunTurn, context: AgentContext) -> str:
        """Return what the turn says once every step is taken."""
        conclude = self.concluding.get(job.kind)
        return "" if conclude is None else conclude(context)
