"""The gateway's settings; the environment's variables are named after the fields."""

from dataclasses import dataclass, field

from services.runtime.channel import ChannelOptions
from services.runtime.server import ServerOptions
from services.runtime.telemetry import TelemetryOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Where the gateway listens, who is behind it, and how much one tenant may ask of it."""

    server: ServerOptions = field(default=ServerOptions(listen="127.0.0.1:50051"))
    """The public listener."""

    session_address: str = "127.0.0.1:50052"
    """The session service: host:port or dns:///name:port."""

    retrieval_address: str = "127.0.0.1:50053"
    """The retrieval service: host:port or dns:///name:port."""

    channel: ChannelOptions = field(default=ChannelOptions())
    """How the services behind are called."""

    signing_key: str = field(default="", repr=False)
    """Ed25519 private key in PEM, with which the gateway signs for whom it calls."""

    api_keys_file: str = "api-keys.jsonl"
    """API keys, one JSON object a line: sha256, tenant, user, may_act_for_users, admin."""

    bootstrap_key_file: str = ""
    """File with the first admin key; made if it is not there. Empty makes none."""

    calls_per_tenant: int = 128
    """Unary calls of one tenant that may run at once in one replica."""

    streams_per_tenant: int = 512
    """Streams of one tenant that may be open at once in one replica."""

    ingest_timeout: float = 120.0
    """Seconds that adding a document may take."""

    telemetry: TelemetryOptions = field(default=TelemetryOptions())
    """Where traces, metrics and logs go."""
