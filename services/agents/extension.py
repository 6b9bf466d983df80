"""What a package that brings agents, prompts or tools of its own imports; docs/extending.md.

This module is the whole of it: what is not here may change without notice.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeAlias

from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.message_pb2 import Citation
from maieutic.v1.specification_pb2 import Conflict, Question, Specification
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_ANALYSIS,
    TURN_KIND_CODE,
    Findings,
    TurnFile,
    Usage,
)
from services.agents.agents.answering import answered
from services.agents.agents.citations import Sources, cited, fenced
from services.agents.agents.known import summary as summary_of
from services.agents.agents.loop import LoopOptions, ModelLoop, Tool, Tools
from services.agents.agents.team_tools import TeamTool
from services.agents.errors import (
    ModelError,
    ModelMalformed,
    ModelOverloaded,
    ModelRefused,
    ModelRejected,
    ModelUnavailable,
    NotDoable,
    ToolProblem,
)
from services.agents.ports import (
    Agent,
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Delta,
    HandOn,
    Model,
    ModelEvent,
    ModelMessage,
    ModelPassage,
    ModelRequest,
    ModelSection,
    ModelTool,
    ModelUsage,
    Notice,
    TextDelta,
)
from services.agents.prompts import BadPrompts, Prompt, prompts_in


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentParts:
    """What an agent is made of."""

    model: Model
    """The worker's: gated, traced and accounted for."""
    tools: Callable[[AgentContext, Sources], Tools]
    """What a model may use for a turn: our tools, the teams' and those of tool servers. What a
    search finds is added to the sources."""
    loop: LoopOptions

    def answer(
        self, context: AgentContext, request: ModelRequest, *, prompt: str
    ) -> AsyncGenerator[AgentEvent, None]:
        """Let the model answer, with all tools; yields what an agent yields.

        *prompt* is the label of the instructions. Raises ModelError.
        """
        sources = Sources()
        tools = self.tools(context, sources)
        asking = ModelLoop(self.model, self.loop).run(request, prompt=prompt, tools=tools)
        return answered(asking, sources)


AgentFactory: TypeAlias = Callable[[AgentParts], Agent]
"""What an entry point of the group `maieutic.agents` names; called once, as the worker starts."""

__all__ = [
    "TURN_KIND_ANALYSIS",
    "TURN_KIND_CODE",
    "Agent",
    "AgentContext",
    "AgentEvent",
    "AgentFactory",
    "AgentParts",
    "Answer",
    "Artifact",
    "Author",
    "BadPrompts",
    "Citation",
    "Conflict",
    "Delta",
    "Findings",
    "HandOn",
    "LoopOptions",
    "Model",
    "ModelError",
    "ModelEvent",
    "ModelLoop",
    "ModelMalformed",
    "ModelMessage",
    "ModelOverloaded",
    "ModelPassage",
    "ModelRefused",
    "ModelRejected",
    "ModelRequest",
    "ModelSection",
    "ModelTool",
    "ModelUnavailable",
    "ModelUsage",
    "NotDoable",
    "Notice",
    "Prompt",
    "Question",
    "Sources",
    "Specification",
    "TeamTool",
    "TextDelta",
    "Tool",
    "ToolProblem",
    "Tools",
    "TurnFile",
    "Usage",
    "answered",
    "cited",
    "fenced",
    "prompts_in",
    "summary_of",
]
