"""Any model, asked by each agent in the way that its settings say."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from services.agents.effort import Effort
from services.agents.ports import Model, ModelEvent, ModelRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTuning:
    """How one agent asks; what is empty is as for all agents."""

    model: str = ""
    """Name of the model; empty takes the one of all agents."""

    effort: Effort = ""
    """How much the model thinks; empty leaves it as for all agents."""

    max_tokens: int = 0
    """Most tokens of one call, at most as many as for all agents; 0 takes those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the agents ask."""

    direct: AgentTuning = field(default=AgentTuning())
    """Answers questions."""

    socratic: AgentTuning = field(default=AgentTuning())
    """Asks the next question."""

    context: AgentTuning = field(default=AgentTuning())
    """Extracts specifications."""

    conflict: AgentTuning = field(default=AgentTuning())
    """Compares specifications."""

    citation: AgentTuning = field(default=AgentTuning())
    """Looks how documents support an answer, in both of its steps."""

    code_plan: AgentTuning = field(default=AgentTuning())
    """Decides which files to write."""

    code_file: AgentTuning = field(default=AgentTuning())
    """Writes one file after the other."""

    summary: AgentTuning = field(default=AgentTuning())
    """Sums up the older part of a conversation."""

    def by_step(self) -> Mapping[str, AgentTuning]:
        """Return each agent's, by the step that its requests name."""
        return {
            "direct": self.direct,
            "socratic": self.socratic,
            "context": self.context,
            "conflict": self.conflict,
            "citation_claims": self.citation,
            "citation_verdicts": self.citation,
            "code_plan": self.code_plan,
            "code_file": self.code_file,
            "summary": self.summary,
        }


class TunedModel:
    """See `ports.Model`."""

    def __init__(self, model: Model, tuning: Tuning) -> None:
        self._model = model
        self._tuning = tuning.by_step()

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call."""
        async with self._model.stream(self._tuned(request)) as events:
            yield events

    def _tuned(self, request: ModelRequest) -> ModelRequest:
        tuning = self._tuning.get(request.step, AgentTuning())
        limits = [most for most in (request.max_tokens, tuning.max_tokens) if most]
        return replace(
            request,
            model=tuning.model or request.model,
            effort=tuning.effort or request.effort,
            max_tokens=min(limits, default=None),
        )
