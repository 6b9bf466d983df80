"""The archive's settings; the environment's variables are named after the fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.persistence.adapters.accounts import AccountOptions
from services.persistence.adapters.postgres import PoolOptions
from services.persistence.artifact_ports import ArtifactLimits
from services.runtime.channel import ChannelOptions
from services.runtime.server import MEBIBYTE, ServerOptions
from services.runtime.settings import PREFIX, BadSettings
from services.runtime.telemetry import TelemetryOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How results are taken from the bus."""

    size: int = 100
    """Results committed in one transaction at most; twice as many are held."""

    wait: float = 0.02
    """Seconds that the first result of a batch waits for more."""

    drain: float = 5.0
    """Seconds that the batch at hand may take once the service stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureOptions:
    """How turns without an outcome are brought to the session service's attention."""

    after: float = 60.0
    """Seconds after its acceptance from which a turn without an outcome is asked after."""

    interval: float = 15.0
    """Seconds between two looks, on average."""

    lease: float = 60.0
    """Seconds for which a session is left to the replica that asked."""

    sessions: int = 100
    """Sessions asked after at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterOptions:
    """How messages are kept that could not be read."""

    keep: float = 30 * 86_400.0
    """Seconds for which a dead letter is kept."""

    interval: float = 3600.0
    """Seconds between two removals of older ones, on average."""

    body_bytes: int = 4 * MEBIBYTE
    """Bytes that are kept of a dead letter; one with more cannot be redriven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactOptions:
    """How the files are kept that agents make."""

    limits: ArtifactLimits = field(default=ArtifactLimits())
    """How much one attempt of a turn may put."""

    keep: float = 86_400.0
    """Seconds for which a file is kept that no outcome names."""

    interval: float = 3600.0
    """Seconds between two removals of such files, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistenceSettings:
    """Where the archive listens, where it keeps what it hears, and from whom it hears."""

    server: ServerOptions = field(
        default=ServerOptions(listen="127.0.0.1:50054", max_message_bytes=40 * MEBIBYTE)
    )
    """The internal listener. Documents come with their bytes, sessions with their messages."""

    archive_url: str = field(default="postgresql://maieutic@127.0.0.1:5432/maieutic", repr=False)
    """The database: postgresql://user:password@host:port/name or sqlite:///path."""

    pool: PoolOptions = field(default=PoolOptions())
    """How PostgreSQL is used."""

    accounts: AccountOptions = field(default=AccountOptions())
    """How much of the database those may have who ask what was consumed."""

    migrate_timeout: float = 60.0
    """Seconds to wait at the start for the database, and then for its migration."""

    bus_url: str = field(default="amqp://guest:guest@127.0.0.1:5672/", repr=False)
    """RabbitMQ; several nodes are separated by commas."""

    batch: BatchOptions = field(default=BatchOptions())
    """How results are taken from the bus."""

    ensure: EnsureOptions = field(default=EnsureOptions())
    """How unfinished turns are asked after."""

    dead_letters: DeadLetterOptions = field(default=DeadLetterOptions())
    """How messages are kept that could not be read."""

    artifacts: ArtifactOptions = field(default=ArtifactOptions())
    """How the files are kept that agents make."""

    session_address: str = "127.0.0.1:50052"
    """The session service: host:port or dns:///name:port."""

    channel: ChannelOptions = field(default=ChannelOptions())
    """How the session service is called."""

    signing_key: str = field(default="", repr=False)
    """Ed25519 private key in PEM, with which the archive signs its calls."""

    public_keys: Mapping[str, str] = field(default_factory=dict)
    """Ed25519 public keys in PEM of the services that may call, by service name."""

    telemetry: TelemetryOptions = field(default=TelemetryOptions())
    """Where traces, metrics and logs go."""

    def __post_init__(self) -> None:
        if not 1 <= (given := self.artifacts.limits.file_bytes) <= MEBIBYTE:
            name = f"{PREFIX}ARTIFACTS_LIMITS_FILE_BYTES"
            raise BadSettings(f"{name}: must be 1 to {MEBIBYTE}, is {given}")
