"""What an operator can set for the retrieval service."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.runtime.channel import ChannelOptions
from services.runtime.server import ServerOptions
from services.runtime.telemetry import TelemetryOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSettings:
    """Where documents are indexed, and how they are cut."""

    server: ServerOptions = field(default=ServerOptions(listen="127.0.0.1:50053"))
    """The listener. A message must hold a document of 2 MiB."""

    archive_address: str = "127.0.0.1:50054"
    """The persistence service, which keeps the documents: host:port or dns:///name:port."""

    channel: ChannelOptions = field(default=ChannelOptions())
    """How the archive is called."""

    index_url: str = "local:///var/lib/maieutic/vectors"
    """The vector index: local:///path is a folder on this machine, for one process."""

    chunk_characters: int = 1000
    """Most characters of a chunk. A change embeds anew what is added from then on."""

    chunk_overlap: int = 200
    """Most characters that neighbouring chunks share; less than a chunk has."""

    signing_key: str = field(default="", repr=False)
    """Ed25519 private key in PEM, with which this service signs its calls."""

    public_keys: Mapping[str, str] = field(default_factory=dict)
    """Ed25519 public keys in PEM of the services that may call, by service name."""

    telemetry: TelemetryOptions = field(default=TelemetryOptions())
    """Where traces, metrics and logs go."""
