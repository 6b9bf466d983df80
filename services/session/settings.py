"""What an operator can set for the session service."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from services.runtime.channel import ChannelOptions
from services.runtime.server import MEBIBYTE, ServerOptions
from services.runtime.settings import PREFIX, BadSettings
from services.runtime.telemetry import TelemetryOptions
from services.session.budget_defaults import BudgetDefaults
from services.session.lanes import LONGEST_BUDGET, TimeBudgets
from services.session.limits import HIGHEST, Most
from services.session.model import Timing
from services.session.orphans import OrphanOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Where sessions live, who may call, and how patient the clock of unfinished work is."""

    id_key: str = field(repr=False)
    """Secret from which session and turn ids are derived; the same in every replica, for good."""

    server: ServerOptions = field(default=ServerOptions(listen="127.0.0.1:50052"))
    """The listener."""

    session_backend: Literal["redis", "memory"] = "redis"
    """Where live sessions are: in the Redis or Valkey of redis_url, or in the memory of a Valkey
    that this service starts for itself. That is for trials: there may be one replica, and what is
    not archived ends with it."""

    redis_url: str = field(default="redis://127.0.0.1:6379/0", repr=False)
    """The session store, Redis 7 or Valkey: redis:// or unix:// for one server, redis+sentinel://
    with Sentinels and their service, redis+cluster:// with nodes; rediss… over TLS. See
    docs/topologies.md."""

    redis_timeout: float = 5.0
    """Seconds that one operation of the store may take, its retries included. After as long without
    an answer calls are refused at once until the store is back."""

    redis_connect_timeout: float = 2.0
    """Seconds that opening a connection to the store may take."""

    redis_connections: int = 64
    """Most connections to each server of the store that transactions may have at a time."""

    durability: Literal["primary", "replicated"] = "primary"
    """What stands when a change is answered: on the primary, where a failover may lose the last
    ones, or replicated to at least one replica, for which each change waits."""

    replica_timeout: float = 1.0
    """Seconds that a change waits for a replica, less than redis_timeout. Without one by then it
    answers UNAVAILABLE, NOT_REPLICATED."""

    archive_address: str = "127.0.0.1:50054"
    """The persistence service: host:port or dns:///name:port."""

    channel: ChannelOptions = field(default=ChannelOptions(max_message_bytes=40 * MEBIBYTE))
    """How the archive is called. What restores a session comes with its messages."""

    signing_key: str = field(default="", repr=False)
    """Ed25519 private key in PEM, with which this service signs its calls."""

    public_keys: Mapping[str, str] = field(default_factory=dict)
    """Ed25519 public keys in PEM of the services that may call, as JSON: service to key."""

    bus_url: str = field(default="amqp://guest:guest@127.0.0.1:5672/", repr=False)
    """RabbitMQ; several nodes are separated by commas."""

    lease: float = 10.0
    """Seconds after which a silent worker has lost its turn."""

    idle: float = 1800.0
    """Seconds without use after which a session leaves the store for the archive alone."""

    publish_grace: float = 2.0
    """Seconds after which a job that the broker has not confirmed is published again."""

    archive_grace: float = 5.0
    """Seconds after which an outcome that the archive has not confirmed is published again."""

    overload_after: float = 30.0
    """Seconds without a confirm from the broker after which no new turns are taken on."""

    sweep_interval: float = 1.0
    """Seconds between two looks at the clock of unfinished work."""

    census_interval: float = 10.0
    """Seconds between two counts of what the store holds, for metrics."""

    max_attempts: int = 5
    """Attempts that a turn is given before it fails. One lost with a worker that ran other turns,
    too, does not count."""

    time_budget: TimeBudgets = field(default=TimeBudgets())
    """How long a turn of each lane may run if its request does not say."""

    budget: BudgetDefaults = field(default=BudgetDefaults())
    """What turns and sessions may consume if their requests do not say."""

    sessions_per_user: int = 10_000
    """Most sessions that one user may have, ended ones included. Creating several at the same time
    may pass it by as many."""

    metadata_bytes: int = 16_384
    """Most bytes that the keys and values of a session's metadata may have together, in UTF-8; up
    to 262144."""

    notes_per_session: int = 200
    """Most notes that one session may have, up to 500."""

    bookmarks_per_session: int = 200
    """Most bookmarks that one session may have, up to 500."""

    waiting_turns: int = 16
    """Most turns that may wait in one session behind the running one, up to 32."""

    message_bytes: int = 131_072
    """Most bytes of a user's message, in UTF-8; up to 131072."""

    answer_bytes: int = 262_144
    """Most bytes of an answer with its citations, up to 524288. A turn with more fails."""

    stream_heartbeat: float = 20.0
    """Seconds without news after which the stream of a session sends an empty frame, so that
    nothing on its way takes it for dead."""

    orphans: OrphanOptions = field(default=OrphanOptions())
    """How the store is searched for what crashes left behind."""

    telemetry: TelemetryOptions = field(default=TelemetryOptions())
    """Where traces, metrics and logs go."""

    def __post_init__(self) -> None:
        for name, highest in HIGHEST.items():
            _check_range(name, getattr(self, name), highest)
        for budget in fields(self.time_budget):
            given = getattr(self.time_budget, budget.name)
            _check_range(f"time_budget_{budget.name}", given, LONGEST_BUDGET)

    def most(self) -> Most:
        """Return the limits."""
        return Most(
            sessions_per_user=self.sessions_per_user,
            metadata_bytes=self.metadata_bytes,
            notes_per_session=self.notes_per_session,
            bookmarks_per_session=self.bookmarks_per_session,
            message_bytes=self.message_bytes,
        )

    def timing(self) -> Timing:
        """Return the clock's settings in milliseconds."""
        return Timing(
            lease=round(self.lease * 1000),
            idle=round(self.idle * 1000),
            publish_grace=round(self.publish_grace * 1000),
            archive_grace=round(self.archive_grace * 1000),
            analysis_budget=self.time_budget.analysis * 1000,
        )


def _check_range(name: str, given: int, highest: int) -> None:
    if not 1 <= given <= highest:
        raise BadSettings(f"{PREFIX}{name.upper()}: must be 1 to {highest}, is {given}")
