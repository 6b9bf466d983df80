"""The workers' settings; the environment's variables are named after the fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.agents.loop import LoopOptions
from services.agents.consumer import WorkerOptions
from services.agents.context_limit import ContextOptions
from services.agents.entry_points import ExtensionOptions
from services.agents.prices import KINDS
from services.agents.recorder import RecorderOptions
from services.agents.tuned_model import Tuning
from services.runtime.channel import ChannelOptions
from services.runtime.server import ServerOptions
from services.runtime.telemetry import TelemetryOptions

SUSPECT_QUEUE = "turns.suspect.v1"


def _claude_prices() -> dict[str, dict[str, str]]:
    """Return what Anthropic asks, on the date that PriceOptions names, for models of one price."""
    listed = {
        "claude-fable-5-1*": ("10", "50", "0.25", "12.50"),
        "claude-opus-5-5*": ("4", "20", "0.20", "5"),
        "claude-opus-5*": ("5", "25", "0.50", "6.25"),
        "claude-sonnet-5-5*": ("2", "10", "0.10", "2.50"),
        "claude-sonnet-5*": ("2", "10", "0.20", "2.50"),
        "claude-haiku-4-5*": ("1", "5", "0.10", "1.25"),
    }
    return {model: dict(zip(KINDS, price, strict=True)) for model, price in listed.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceOptions:
    """What the models cost; turns are accounted by it."""

    date: str = "2026-10-24"
    """The day as of which the prices hold, YYYY-MM-DD: every cost is told with it. The default
    prices are those of this day, and nobody else keeps them up to date."""

    currency: str = "USD"
    """Three letters of ISO 4217."""

    models: Mapping[str, Mapping[str, str]] = field(default_factory=_claude_prices)
    """JSON object: model, or the beginning of names and an asterisk, to the prices of a million
    tokens, as {"claude-x*": {"input": "2", "output": "10", "cached": "0.10", "cache_write":
    "2.50"}}. It replaces the whole default. What a model consumes that is not in it has an unknown
    cost; offline and scripted models cost 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which model answers."""

    kind: Literal["offline", "claude", "scripted"] = "offline"
    """offline: quotes from the passages, without any network. claude: Anthropic's API. scripted:
    does as the user's text says, for tests and load."""

    claude: ClaudeOptions = field(default=ClaudeOptions())
    """How Claude is called."""

    prices: PriceOptions = field(default_factory=PriceOptions)
    """What the models cost."""

    agents: Tuning = field(default=Tuning())
    """How each agent asks the model, where it differs from the others."""

    context: ContextOptions = field(default_factory=ContextOptions)
    """How much of a conversation models are given."""

    loop: LoopOptions = field(default=LoopOptions())
    """How far a model may look things up before it answers."""

    word_delay: float = 0.02
    """Seconds before each word of the offline model, so that its streaming can be watched."""

    script: str = ""
    """JSON object over the defaults of the scripted model, as {"chunks": 5, "delay": 0.1}."""

    calls_file: str = ""
    """File to which the scripted model appends the turn id of each call. Empty writes none."""

    @property
    def provider(self) -> str:
        """Return who runs the model, as spans and metrics name it."""
        return "anthropic" if self.kind == "claude" else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentsSettings:
    """What the workers consume, whom they call, and how they stop."""

    server: ServerOptions = field(default=ServerOptions(listen="127.0.0.1:50055"))
    """The listener for health checks; the workers serve nothing else."""

    session_address: str = "127.0.0.1:50052"
    """The session service: host:port or dns:///name:port."""

    retrieval_address: str = "127.0.0.1:50053"
    """The retrieval service: host:port or dns:///name:port."""

    channel: ChannelOptions = field(default=ChannelOptions())
    """How the services are called."""

    bus_url: str = field(default="amqp://guest:guest@127.0.0.1:5672/", repr=False)
    """RabbitMQ: one URL, or those of a cluster's nodes separated by commas."""

    signing_key: str = field(default="", repr=False)
    """Ed25519 private key in PEM, with which the workers sign their calls."""

    worker_id: str = ""
    """Name of this worker in claims; empty takes the host's name and the process id."""

    interactive_turns: int = 256
    """Interactive turns that run at once; 0 leaves the lane to other workers."""

    analysis_turns: int = 64
    """Analysis turns that run at once; 0 leaves the lane to other workers."""

    long_turns: int = 16
    """Long turns that run at once; 0 leaves the lane to other workers."""

    recorder: RecorderOptions = field(default=RecorderOptions())
    """How frames and heartbeats are sent."""

    grace: float = 25.0
    """Seconds from SIGTERM until the process ends; turns that are then still running are handed
    back. Less than what the platform gives before it kills."""

    model: ModelSettings = field(default_factory=ModelSettings)
    """Which model answers."""

    extensions: ExtensionOptions = field(default_factory=ExtensionOptions)
    """What is used of other packages."""

    telemetry: TelemetryOptions = field(default=TelemetryOptions())
    """Where traces, metrics and logs go."""

    @property
    def turns(self) -> int:
        """Return how many turns run at once, of all lanes together."""
        return sum(self._queues().values())

    def worker(self) -> WorkerOptions:
        """Return what to consume. Suspect jobs come one by one: one of them may kill a worker."""
        return WorkerOptions(queues=self._queues(), grace=self.grace)

    def _queues(self) -> Mapping[str, int]:
        lanes = {
            "turns.interactive.v1": self.interactive_turns,
            "turns.analysis.v1": self.analysis_turns,
            "turns.long.v1": self.long_turns,
        }
        return {queue: turns for queue, turns in lanes.items() if turns} | {SUSPECT_QUEUE: 1}
