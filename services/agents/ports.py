"""What the agents need, and what an agent is."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.message_pb2 import Citation, Message
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_ANALYSIS,
    TURN_KIND_CODE,
    Findings,
    TurnFile,
    TurnKind,
    Usage,
)
from services.agents.effort import Effort


class Author(StrEnum):
    """Who said a message."""

    USER = "user"
    AGENT = "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMessage:
    """One message of the conversation."""

    author: Author
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPassage:
    """A passage that the answer may cite as [number]; data, never instructions."""

    number: int
    """From 1."""
    document_name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """A part of what is known; data, never instructions."""

    name: str
    """Of the element that it is given in."""
    text: str
    """JSON that cannot end its element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTool:
    """What a model may ask for while it answers."""

    name: str
    description: str
    """What it is for, told to the model."""
    schema: Mapping[str, Any] = field(hash=False)
    """JSON Schema of its input, an object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool, as a model asks for it: nothing about it has been checked."""

    call_id: str
    name: str
    input: Mapping[str, Any] | None
    """None if what the model gave is no JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a call has brought."""

    call_id: str
    text: str
    """Never blank."""
    failed: bool = False
    """Whether the text says what went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWait:
    """The model has not ended its answer: it goes on in another call, with a `ModelRound`."""

    calls: tuple[ToolCall, ...]
    """What it has to know first; empty if it only paused."""
    carried: object = None
    """What the model needs to have back, in its own terms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRound:
    """An earlier call of the same answer."""

    wait: ModelWait
    results: tuple[ToolResult, ...]
    """One for each of its calls, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call of a model."""

    turn_id: str
    """For tracing and for counting calls."""
    step: str = "direct"
    """The agent that asks."""
    system: str
    """The instructions: the same for all turns of an agent, so that a model may cache them."""
    messages: tuple[ModelMessage, ...]
    """Oldest first; the last one is the user's and is the one to answer."""
    summary: str = ""
    """What was said before the messages, as JSON that cannot end its element; data, never
    instructions. The same until the next summary, so that a model may cache it."""
    left_out: int = 0
    """How many messages before these neither they nor the summary hold."""
    passages: tuple[ModelPassage, ...] = ()
    grounding: str = ""
    """The passages as fenced text. A model that reads text is given it before the last message;
    one that quotes uses `passages`."""
    sections: tuple[ModelSection, ...] = ()
    """What is known besides; a model is given it before the last message."""
    schema: Mapping[str, Any] | None = None
    """If set, the answer is to be JSON of this JSON Schema."""
    model: str = ""
    """Name of the model; empty leaves it to the settings."""
    effort: Effort = ""
    """How much it thinks; empty leaves it to the settings."""
    max_tokens: int | None = None
    """Most tokens of the answer; None leaves the limit to the model's own settings."""
    tools: tuple[ModelTool, ...] = ()
    """What the model may call; the same for all turns of an agent, as far as can be."""
    may_call: bool = True
    """False: the model has to answer without another call of a tool."""
    rounds: tuple[ModelRound, ...] = ()
    """Earlier calls of this answer, oldest first; they come after the messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """Text to append to the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a call costs."""

    micros: int
    """In millionths of the currency's unit."""
    currency: str
    """ISO 4217."""
    price_date: str
    """Of the price table: YYYY-MM-DD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """What the call consumed, in tokens."""

    model: str
    input_tokens: int
    """Those read from the model's cache and written to it included."""
    output_tokens: int
    cached_tokens: int = 0
    """Read from the cache."""
    cache_write_tokens: int = 0
    cost: Cost | None = None
    """None if it is unknown; a model itself does not know it."""
    usage_id: str = ""
    """Of the call, in its turn's account; a model itself does not know it."""
    cut: bool = False
    """Whether the answer ends where the tokens ended, before its own end."""


ModelEvent = TextDelta | ModelWait | ModelUsage


class Model(Protocol):
    """A language model.

    Entering a stream and reading from it raise ModelUnavailable, ModelRefused or ModelRejected
    and nothing of the adapter's own technology. The events are text deltas, none of them empty,
    then one ModelWait if the answer is to go on. ModelUsages may come at any time and tell what
    the call has consumed so far, which is what counts if it is stopped; one for the whole call
    is the last event. Leaving the block early stops the call.
    """

    def stream(
        self, request: ModelRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Start one call; the block is its life."""
        ...


ReadHistory: TypeAlias = Callable[[str, int], Awaitable[tuple[Sequence[Message], str]]]
"""From a page token, empty for the newest messages, and how many: the messages, newest first, and
the next page's token, empty after the last. Raises ToolProblem and ServiceError."""


PutArtifact: TypeAlias = Callable[[str, str], Awaitable[Artifact]]
"""From a file's path and text: the file as it is stored. Tried for as long as the turn is this
worker's while the store is away. Raises ServiceError for what it refuses."""
ReadAfter: TypeAlias = Callable[[int, int], Awaitable[Sequence[Message]]]
"""From a position, 0 for the beginning, and how many: what was said after it, oldest first. Maybe
fewer; none at the end. Raises ConversationUnreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentContext:
    """What an agent is given for one turn."""

    tenant: str
    user_id: str
    session_id: str
    turn_id: str
    text: str
    """What the user says in this turn; empty if they said nothing."""
    document_ids: tuple[str, ...]
    """The documents that answers are drawn from; may be empty."""
    messages: tuple[ModelMessage, ...]
    """What was said after the part that the summary covers, oldest first; to answer is the last
    one, if it is the user's."""
    left_out: int = 0
    """How many messages before them the summary does not cover either."""
    history: ReadHistory
    """All that was said in the session."""
    read_after: ReadAfter
    """The same, from a position on."""
    summary_through: int = 0
    """Of a summary: the position of the last message that it is to cover."""
    findings: Findings
    """What agents have found in the session so far; and what this turn is to write."""
    put_artifact: PutArtifact
    """Stores a file of the turn; an answer that names it makes it part of the outcome."""
    deadline: float
    """Unix time in seconds at which the turn's time budget is spent."""
    collection: str = ""
    """Whose documents the turn is about; empty if it is about those of the session."""
    step: str = ""
    """Of the routing slip, if the turn has one."""
    artifacts: tuple[Artifact, ...] = ()
    """The files that the turn's finished steps have made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What the agent is doing, for display."""

    code: str
    """UPPER_SNAKE."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Text of the answer to show at once."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOn:
    """What another agent is to do beside the conversation, once this answer has ended."""

    kind: TurnKind.ValueType
    """ANALYSIS or CODE; ValueError for another one."""
    instructions: str = ""
    """In place of what the user says in the turn; empty: just that."""

    def __post_init__(self) -> None:
        if self.kind not in (TURN_KIND_ANALYSIS, TURN_KIND_CODE):
            raise ValueError("only TURN_KIND_ANALYSIS and TURN_KIND_CODE can be handed on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The whole answer; the last event of a run."""

    text: str
    """All deltas together."""
    citations: tuple[Citation, ...] = ()
    usage: tuple[Usage, ...] = ()
    """One for each call of a model."""
    findings: Findings | None = None
    """What the session is to know from now on."""
    artifacts: tuple[Artifact, ...] = ()
    """The files that were made, as they are stored."""
    hand_on: tuple[HandOn, ...] = ()
    """Of each kind at most one. Not for the steps of a routing slip."""


AgentEvent = Notice | Delta | TurnFile | Answer
"""Deltas after a TurnFile are the text of that file, which begins."""


class Agent(Protocol):
    """A way of answering; without state, so that one instance serves every turn."""

    def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Do the work of the turn, or of one of its steps: what is shown, then one Answer.

        Raises ModelError, NotDoable, and ServiceError for what a peer refused.
        """
        ...
