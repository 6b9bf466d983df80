"""How Claude is called; apart from its adapter, because the SDK takes a second to import."""

from dataclasses import dataclass, field

from services.agents.effort import Effort

BASE_URL = "https://api.anthropic.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeOptions:
    """Which Claude is called, and how long it is waited for. Times in seconds."""

    api_key: str = field(default="", repr=False)
    """Key of the API."""

    base_url: str = BASE_URL
    """Where the API is."""

    model: str = "claude-sonnet-5-5"
    """Name of the model."""

    effort: Effort = ""
    """How much the model thinks; empty leaves it to the model."""

    max_tokens: int = 8192
    """Most tokens of one answer, the model's thinking included."""

    connect_timeout: float = 5.0
    """Until a connection stands."""

    first_token_timeout: float = 120.0
    """From the request to the first word of the answer; a model may think before it speaks."""

    token_timeout: float = 60.0
    """Between two pieces of the answer; keep-alive pings do not count as one."""
